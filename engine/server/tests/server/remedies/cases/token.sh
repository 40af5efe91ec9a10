# A token of SoftHSM2, and what its module, its keys and its PIN can have.

# says: check that {} is the vendor's PKCS#11 module for this machine
# says: check that {} is a PKCS#11 module of version 2.40 or newer
mode=
aes module
softhsm module > FILE
sed 's|^module.*|module = "/usr/lib/none.so"|' FILE > NONE
start --config NONE
! impatient keyspace create shop
stop
sed "s|^module.*|module = \"$(ldconfig -p | sed -n 's/.* //; /libc\.so\.6/{p;q}')\"|" FILE > LIBC
start --config LIBC
! impatient keyspace create shop
stop
start --config FILE
keyway keyspace create shop

# says: give the serial number as the token
mode=
softhsm2-util --init-token --free --label twin --pin "$PIN" --so-pin "$SO_PIN"
pkcs11-tool --module "$MODULE" --token-label twin --login --pin "$PIN" --keygen --label twins --key-type AES:32 --private --sensitive
serial=$(softhsm2-util --show-slots | awk '/Serial number/ {serial = $3} /Label:/ && $2 == "twin" {print serial}')
softhsm2-util --init-token --free --label twin --pin "$PIN" --so-pin "$SO_PIN"
softhsm twins | sed 's/^token.*/token = "twin"/' > FILE
start --config FILE
! impatient keyspace create shop 2>&1 | tee WHY | grep -v "serial numbers.*$serial"
stop
cat WHY
sed -i "s/^token.*/token = \"$serial\"/" FILE
start --config FILE
keyway keyspace create shop

# says: connect the token, or correct its label; a token that comes back is found without a restart
mode=
aes label
softhsm label > FILE
sed 's/^token.*/token = "other"/' FILE > OTHER
start --config OTHER
! impatient keyspace create shop
stop
start --config FILE
keyway keyspace create shop

# says: make the key on the token, restore it from the token's backup, or correct the label
mode=
softhsm made > FILE
start --config FILE
! impatient keyspace create shop
aes made
until keyway keyspace create shop; do sleep 0.1; done

# says: give the key a label of its own
mode=
aes same; aes same
softhsm same > FILE
start --config FILE
! impatient keyspace create shop
stop
aes its-own
sed -i s/same/its-own/ FILE
start --config FILE
keyway keyspace create shop

# says: use an AES-256 key, which has 32
mode=
aes short --key-type AES:16 --private --sensitive
softhsm short > FILE
start --config FILE
! impatient keyspace create shop
stop
aes long
sed -i s/short/long/ FILE
start --config FILE
keyway keyspace create shop

# says: make a key with CKA_PRIVATE and CKA_SENSITIVE true (pkcs11-tool: --private --sensitive)
mode=
aes open --key-type AES:32
softhsm open > FILE
start --config FILE
! impatient keyspace create shop
stop
aes guarded --key-type AES:32 --private --sensitive
sed -i s/open/guarded/ FILE
start --config FILE
keyway keyspace create shop

# says: the key may leave the token: make one with CKA_EXTRACTABLE false
mode=
aes leaving --key-type AES:32 --private --sensitive --extractable
softhsm leaving > FILE
start --config FILE
keyway keyspace create shop
until grep 'may leave the token' log; do sleep 0.1; done
stop
aes staying
softhsm staying > FILE
rm -r data
start --config FILE
keyway keyspace create shop
! grep 'may leave the token' log

# says: unlock it: keyway kms unlock NAME --pin
# says: run `keyway kms unlock {} --pin`
mode=
aes pinless
softhsm pinless | sed /pin_file/d > FILE; softhsm pinless > OTHER
start --config FILE
! keyway keyspace create shop
! keyway kms unlock a
keyway kms unlock a --pin-fd 3 3< PIN
keyway keyspace create shop

# says: unlock it with the token's user PIN: keyway kms unlock NAME --pin
mode=
aes given
softhsm given > FILE; secret
start --config FILE
keyway kms lock a
! keyway kms unlock a --passphrase-fd 3 3< SECRET
keyway kms unlock a --pin-fd 3 3< PIN
keyway keyspace create shop

# says: run `keyway unlock {} --wait --pin`
mode=
aes waiting
softhsm waiting | sed /pin_file/d > FILE; softhsm waiting > OTHER
start --config FILE
keyway kms unlock a --pin-fd 3 3< PIN
keyway keyspace create shop
keyway kms lock a
! keyway unlock shop --wait
keyway unlock shop --wait --pin-fd 3 3< PIN

# says: try again; if the PIN was changed at the token, give the new one with --force, which logs out and lets the token check it
mode=
aes changed
softhsm changed | sed /pin_file/d > FILE; softhsm changed > OTHER
echo 99999999 > NEW
start --config FILE
keyway kms unlock a --pin-fd 3 3< PIN
! keyway kms unlock a --pin-fd 3 3< NEW
keyway kms unlock a --pin-fd 3 3< PIN
keyway kms unlock a --force --pin-fd 3 3< PIN
keyway keyspace create shop

# says: give the token's user PIN
# says: check that the source is the PIN and not another file
# says: put it on a single line
mode=
aes file
softhsm file > FILE
start --config FILE
: > PIN
! impatient keyspace create shop
head -c 256 /dev/zero | tr '\0' 1 > PIN
! impatient keyspace create shop
printf '12\n34\n' > PIN
! impatient keyspace create shop
echo "$PIN" > PIN
until keyway keyspace create shop; do sleep 0.1; done

# says: unlock with the token's user PIN; a wrong one is never sent again automatically
mode=
aes mistyped
softhsm mistyped | sed /pin_file/d > FILE; softhsm mistyped > OTHER
echo 87654321 > WRONG
start --config FILE
! keyway kms unlock a --pin-fd 3 3< WRONG
keyway kms unlock a --pin-fd 3 3< PIN
keyway keyspace create shop

# says: correct the file, or unlock by giving the PIN itself: keyway kms unlock NAME --pin
mode=
aes wrong
softhsm wrong > FILE
echo 87654321 > PIN
start --config FILE
! impatient keyspace create shop
! impatient keyspace create shop
echo "$PIN" > RIGHT
keyway kms unlock a --pin-fd 3 3< RIGHT
keyway keyspace create shop

# says: check the key's label: if the key was recreated, restore the old one from the token's backup; otherwise restore the wrapped key from a backup
mode=
aes remade
softhsm remade > FILE
start --config FILE
keyway keyspace create shop
keyway key generate shop/ed --alg ed25519
stop
tokens=$(sed -n 's/^directories.tokendir *= *//p' "$SOFTHSM2_CONF")
cp -a "$tokens" backup
pkcs11-tool --module "$MODULE" --token-label "$TOKEN" --login --pin "$PIN" --delete-object --type secrkey --label remade
aes remade
start --config FILE
! impatient unlock shop --wait
stop
rm -r "$tokens"; cp -a backup "$tokens"
start --config FILE
keyway unlock shop --wait
keyway key rotate shop/ed
