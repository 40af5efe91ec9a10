/* A PKCS#11 module that passes every call on to another one, and lets some fail or tell something else.
 *
 * KEYWAY_TEST_MODULE names the other module, KEYWAY_TEST_FAULTS a file that is read at each call:
 *   flags 0x20000        these bits are added to a token's flags
 *   C_Decrypt 0x101      the function returns this value and does nothing else
 *   C_Decrypt hang       the function waits until this line is gone, and then does what it should
 *   exit 0x0             the module's exit handler crashes, as one does whose threads are at work meanwhile
 *   C_Decrypt logout     the session's login ends, as another program's C_Logout would do it, and the function says so
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef unsigned long Value;
typedef Value (*Any)(void *, void *, void *, void *, void *, void *);

/* CK_FUNCTION_LIST: a version of two bytes, then 68 pointers. */
struct list {
    unsigned char version[2];
    void *functions[68];
};

enum { GET_FUNCTION_LIST = 3, GET_TOKEN_INFO = 6, LOGIN = 18, LOGOUT = 19, ENCRYPT_INIT = 29, DECRYPT_INIT = 33, DECRYPT = 34 };
/* CK_TOKEN_INFO: four texts of 32, 32, 16 and 16 bytes stand before the flags. */
enum { FLAGS_AT = 96 };

/* No CKR_ values. */
static const Value HANG = ~0ul, LOSE_LOGIN = ~1ul;
static const Value USER_NOT_LOGGED_IN = 0x101;

static struct list real, ours;

static int fault(const char *name, Value *value) {
    const char *path = getenv("KEYWAY_TEST_FAULTS");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[64], text[64];
    int found = 0;
    while (file && fscanf(file, "%63s %63s", line, text) == 2)
        if ((found = strcmp(line, name) == 0)) {
            *value = strcmp(text, "hang") == 0     ? HANG
                     : strcmp(text, "logout") == 0 ? LOSE_LOGIN
                                                   : strtoul(text, NULL, 16);
            break;
        }
    if (file)
        fclose(file);
    return found;
}

static Value pass(int at, const char *name, void *a, void *b, void *c, void *d, void *e, void *f) {
    Value value;
    int is_faulty;
    while ((is_faulty = fault(name, &value)) && value == HANG) {
        struct timespec pause = { 0, 20 * 1000 * 1000 };
        nanosleep(&pause, NULL);
    }
    if (is_faulty && value == LOSE_LOGIN) {
        ((Any)real.functions[LOGOUT])(a, 0, 0, 0, 0, 0);
        return USER_NOT_LOGGED_IN;
    }
    return is_faulty ? value : ((Any)real.functions[at])(a, b, c, d, e, f);
}

static Value token_info(void *slot, unsigned char *info) {
    Value flags, value = ((Any)real.functions[GET_TOKEN_INFO])(slot, info, 0, 0, 0, 0);
    if (value == 0 && fault("flags", &flags)) {
        Value all;
        memcpy(&all, info + FLAGS_AT, sizeof all);
        all |= flags;
        memcpy(info + FLAGS_AT, &all, sizeof all);
    }
    return value;
}

__attribute__((destructor)) static void at_exit(void) {
    Value value;
    if (fault("exit", &value))
        abort();
}

static Value login(void *a, void *b, void *c, void *d) { return pass(LOGIN, "C_Login", a, b, c, d, 0, 0); }
static Value encrypt_init(void *a, void *b, void *c) { return pass(ENCRYPT_INIT, "C_EncryptInit", a, b, c, 0, 0, 0); }
static Value decrypt_init(void *a, void *b, void *c) { return pass(DECRYPT_INIT, "C_DecryptInit", a, b, c, 0, 0, 0); }
static Value decrypt(void *a, void *b, void *c, void *d, void *e) { return pass(DECRYPT, "C_Decrypt", a, b, c, d, e, 0); }

Value C_GetFunctionList(struct list **list) {
    if (!real.functions[GET_TOKEN_INFO]) {
        const char *path = getenv("KEYWAY_TEST_MODULE");
        void *module = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
        Value (*get)(struct list **) = module ? (Value(*)(struct list **))dlsym(module, "C_GetFunctionList") : NULL;
        struct list *found;
        if (!get || get(&found) != 0)
            return 5; /* CKR_GENERAL_ERROR */
        real = *found;
        ours = real;
        ours.functions[GET_FUNCTION_LIST] = (void *)C_GetFunctionList;
        ours.functions[GET_TOKEN_INFO] = (void *)token_info;
        ours.functions[LOGIN] = (void *)login;
        ours.functions[ENCRYPT_INIT] = (void *)encrypt_init;
        ours.functions[DECRYPT_INIT] = (void *)decrypt_init;
        ours.functions[DECRYPT] = (void *)decrypt;
    }
    *list = &ours;
    return 0;
}
