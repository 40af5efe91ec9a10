# Key files, at a server with the keyspace prod.
keyway keyspace list prod || keyway keyspace create prod
openssl genpkey -algorithm ed25519 -out key.pem
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out p256.pem
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.pem
openssl pkcs8 -topk8 -nocrypt -in p256.pem -outform DER -out p256.der
openssl pkcs8 -topk8 -nocrypt -in rsa.pem -outform DER -out rsa.der
echo hello > msg

# says: write it as UTF-8: iconv -f UTF-32 -t UTF-8 FILE > NEW
iconv -f UTF-8 -t UTF-32 ../key.pem > FILE
! keyway key import prod/utf32 --file FILE
iconv -f UTF-32 -t UTF-8 FILE > NEW
keyway key import prod/utf32 --file NEW

# says: write it as UTF-8: iconv -f UTF-16 -t UTF-8 FILE > NEW
iconv -f UTF-8 -t UTF-16 ../key.pem > FILE
! keyway key import prod/utf16 --file FILE
iconv -f UTF-16 -t UTF-8 FILE > NEW
keyway key import prod/utf16 --file NEW

# says: write it as UTF-8: iconv -f UTF-16LE -t UTF-8 FILE > NEW
iconv -f UTF-8 -t UTF-16LE ../key.pem > FILE
! keyway key import prod/utf16le --file FILE
iconv -f UTF-16LE -t UTF-8 FILE > NEW
keyway key import prod/utf16le --file NEW

# says: write it as UTF-8: iconv -f UTF-16BE -t UTF-8 FILE > NEW
iconv -f UTF-8 -t UTF-16BE ../key.pem > FILE
! keyway key import prod/utf16be --file FILE
iconv -f UTF-16BE -t UTF-8 FILE > NEW
keyway key import prod/utf16be --file NEW

# says: write it in OpenSSH's: puttygen FILE -O private-openssh -o NEW
ssh-keygen -q -t ed25519 -N '' -f putty
puttygen putty -O private --new-passphrase /dev/null -o FILE
! keyway key import prod/putty --file FILE
puttygen FILE -O private-openssh -o NEW
keyway key import prod/putty --file NEW

# says: give the file of the private key
ssh-keygen -q -t ed25519 -N '' -f FILE
! keyway key import prod/private --file FILE.pub
openssl pkey -in ../key.pem -pubout -out pub.pem; openssl pkey -in ../key.pem -pubout -outform DER -out pub.der
! keyway key import prod/private --file pub.pem
! keyway key import prod/private --file pub.der
keyway key import prod/private --file FILE
keyway key import prod/private-pem --file ../key.pem

# says: give the file of a private key, or name the algorithm of a raw secret
printf 'correct! horse! battery! staple!' > FILE
! keyway key import prod/unknown --file FILE
keyway key import prod/unknown --file ../key.pem
keyway key import prod/raw --alg hmac-sha256 --file FILE

# says: its primes must have the same length: make a new key
number() { (printf '\377'; head -c $(($1 - 1)) /dev/urandom) | basenc --base64url -w 0 | tr -d =; }
printf '{"kty":"RSA","n":"%s","e":"AQAB","d":"%s","p":"%s","q":"%s"}' "$(number 256)" "$(number 255)" "$(number 130)" "$(number 126)" > FILE
! keyway key import prod/unequal --file FILE
openssl genrsa -out NEW 2048
keyway key import prod/unequal --file NEW

# says: make a key of two primes
openssl genrsa -primes 3 -out three.pem 2048; openssl pkey -in three.pem -traditional -out FILE
! keyway key import prod/primes --file FILE
openssl genrsa -out NEW 2048
keyway key import prod/primes --file NEW

# says: Ed25519, ECDSA on P-256 and P-384, and RSA are supported
openssl genpkey -algorithm ed448 -out FILE
! keyway key import prod/supported --file FILE
for alg in ed25519 'EC -pkeyopt ec_paramgen_curve:P-256' 'EC -pkeyopt ec_paramgen_curve:P-384' RSA
do openssl genpkey -algorithm $alg -out NEW; keyway key import "prod/supported-$(printf %s "$alg" | tr ': ' --)" --file NEW
done

# says: take the key out first: openssl pkcs12 -in FILE -nocerts -nodes -out NEW
openssl req -x509 -new -key ../p256.pem -subj /CN=x -days 9 -out cert
openssl pkcs12 -export -inkey ../p256.pem -in cert -passout pass: -out FILE
! keyway key import prod/p12 --file FILE
openssl pkcs12 -in FILE -nocerts -nodes -out NEW -passin pass:
keyway key import prod/p12 --file NEW

# says: give the document alone: head -c LENGTH FILE > NEW
cat ../p256.der ../p256.der > FILE
! keyway key import prod/alone --file FILE
head -c $(wc -c < ../p256.der) FILE > NEW
keyway key import prod/alone --file NEW

# says: give an unencrypted private key; what OpenSSL reads, this converts: openssl pkcs8 -topk8 -nocrypt -in FILE -out NEW
openssl req -x509 -new -key ../p256.pem -subj /CN=x -days 9 -outform DER -out cert.der
! keyway key import prod/converted --file cert.der
openssl pkey -in ../key.pem -aes256 -passout pass:x -outform DER -out FILE || cp ../p256.pem FILE
openssl pkcs8 -topk8 -nocrypt -in FILE -passin pass:x -out NEW
keyway key import prod/converted --file NEW

# says: name the format raw if these bytes are meant to be the secret
# says: leave the format out: it is detected
! keyway key import prod/meant --alg hmac-sha256 --file ../p256.der
! keyway key import prod/detected --format pkcs8-der --file ../p256.pem
keyway key import prod/meant --alg hmac-sha256 --file ../p256.der --format raw --encoding raw
keyway key import prod/detected --file ../p256.pem

# says: name the algorithm
openssl rand 32 | tr '\n\r' xx > FILE
! keyway key import prod/algorithm --file FILE --format raw --encoding raw
keyway key import prod/algorithm --file FILE --format raw --encoding raw --alg aes-256-gcm

# says: the seed has exactly 32 bytes
# says: the key has exactly 32 bytes
# says: the secret has 16 to 1024 bytes
openssl rand -hex 15 > SHORT; openssl rand -hex 32 > FILE; openssl rand -hex 16 > SECRET
! keyway key import prod/seed --alg ed25519 --file SHORT --encoding hex
! keyway key import prod/aead --alg aes-256-gcm --file SHORT --encoding hex
! keyway key import prod/secret --alg hmac-sha256 --file SHORT --encoding hex
keyway key import prod/seed --alg ed25519 --file FILE --encoding hex
keyway key import prod/aead --alg aes-256-gcm --file FILE --encoding hex
keyway key import prod/secret --alg hmac-sha256 --file SECRET --encoding hex

# says: give such a key as PKCS#8, PEM or DER
openssl rand -hex 32 > FILE
! keyway key import prod/scalar --alg ecdsa-p256 --file FILE --encoding hex
keyway key import prod/scalar --alg ecdsa-p256 --file ../p256.der
keyway key import prod/scalar-pem --alg ecdsa-p256 --file ../p256.pem

# says: create the file again from its source
# The last byte of the public point, and one inside the modulus.
head -c $(($(wc -c < ../p256.der) - 1)) ../p256.der > FILE; printf 'x' >> FILE
! keyway key import prod/created --file FILE
openssl pkcs8 -topk8 -nocrypt -in ../p256.pem -outform DER -out FILE
keyway key import prod/created --file FILE

# says: decrypt it first: openssl pkcs8 -topk8 -nocrypt -in FILE -out NEW, or for OpenSSH's format ssh-keygen -p -f COPY
openssl pkey -in ../key.pem -aes256 -passout pass:secret -out FILE; ssh-keygen -q -t ed25519 -N secret -f SSH
! keyway key import prod/encrypted --file FILE
! keyway key import prod/encrypted --file SSH
openssl pkcs8 -topk8 -nocrypt -in FILE -out NEW -passin pass:secret
cp SSH COPY; ssh-keygen -q -p -P secret -N '' -f COPY
keyway key import prod/encrypted --file NEW
keyway key import prod/encrypted-ssh --file COPY

# says: RSA keys have 2048, 3072 or 4096 bits
openssl genrsa -out FILE 1024
! keyway key import prod/bits --file FILE
keyway key import prod/bits --file ../rsa.pem

# says: the public exponent is from 65537 to 2^33 - 1: make a new key
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -pkeyopt rsa_keygen_pubexp:3 -out FILE
! keyway key import prod/exponent --file FILE
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out NEW
keyway key import prod/exponent --file NEW

# says: the supported curves are P-256 (prime256v1) and P-384 (secp384r1)
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp256k1 -out FILE
! keyway key import prod/curve --file FILE
for curve in prime256v1 secp384r1
do openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:$curve -out NEW; keyway key import prod/curve-$curve --file NEW
done

# says: name the algorithm, ecdsa-p256 or ecdsa-p384
openssl rand 32 > SCALAR; { printf '\060\045\002\001\001\004\040'; cat SCALAR; } > FILE
! keyway key import prod/nameless --file FILE
keyway key import prod/nameless --file FILE --alg ecdsa-p256

# says: give one of them, the object with kty
# says: give one key as a JWK (an object with kty), or the key itself as PEM or DER
jwk='{"kty":"oct","k":"AAECAwQFBgcICQoLDA0ODw"}'
printf '{"keys":[%s,%s]}' "$jwk" "$jwk" > FILE; printf '{"key":"none"}' > OTHER; printf %s "$jwk" > NEW
! keyway key import prod/jwks --alg hmac-sha256 --file FILE
! keyway key import prod/jwks --alg hmac-sha256 --file OTHER --format jwk
keyway key import prod/jwks --alg hmac-sha256 --file NEW
keyway key import prod/jwks-pem --file ../key.pem
keyway key import prod/jwks-der --file ../p256.der

# says: name the algorithm, as in hmac-sha256
# says: name the algorithm that the secret is for, as in hmac-sha256
printf '{"kty":"oct","k":"AAECAwQFBgcICQoLDA0ODw"}' > FILE
! keyway key import prod/oct --file FILE
! keyway key import prod/oct --file FILE --alg ed25519
keyway key import prod/oct --file FILE --alg hmac-sha256

# says: give the private key's JWK
printf '{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}' > FILE
printf '{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}' > NEW
! keyway key import prod/okp --file FILE
keyway key import prod/okp --file NEW

# says: write its members as unbroken base64url (A-Z, a-z, 0-9, - and _), or give the key as PEM
printf '{"kty":"oct","k":"AAECAwQFBgcICQo LDA0O/w=="}' > FILE; printf '{"kty":"oct","k":"AAECAwQFBgcICQoLDA0O_w"}' > NEW
! keyway key import prod/unbroken --alg hmac-sha256 --file FILE
keyway key import prod/unbroken --alg hmac-sha256 --file NEW

# says: put it on lines of its own: sed -E
tr '\n' ' ' < ../p256.pem > FILE
! keyway key import prod/lines --file FILE
sed -E -e 's/.*-----BEGIN/-----BEGIN/' -e 's/(-----END [A-Z ]*-----).*/\1/' -e 's/\\r//g' -e 's/\\n/\n/g' -e 's/(-----BEGIN [A-Z ]*-----) *([^\n])/\1\n\2/' -e 's/([^\n]) *(-----END )/\1\n\2/' FILE > NEW
keyway key import prod/lines --file NEW

# says: put line ends in their place: sed
awk '{printf "%s\\n", $0}' ../key.pem > FILE
! keyway key import prod/ends --file FILE
sed 's/\\r//g; s/\\n/\n/g' FILE > NEW
keyway key import prod/ends --file NEW

# says: give one key per file
cat ../key.pem ../p256.pem > FILE
! keyway key import prod/one --file FILE
keyway key import prod/one --file ../key.pem
keyway key import prod/two --file ../p256.pem

# says: give a file with a PRIVATE KEY block
printf 'a text\n-----END PRIVATE KEY-----\n' > FILE
! keyway key import prod/block --file FILE --format pem
keyway key import prod/block --file ../key.pem --format pem

# says: give the file as it was made
sed '2s/^..../!!!!/' ../p256.pem > FILE
! keyway key import prod/made --file FILE
keyway key import prod/made --file ../p256.pem

# says: give the whole file
head -n 2 ../p256.pem > FILE
! keyway key import prod/whole --file FILE
keyway key import prod/whole --file ../p256.pem
