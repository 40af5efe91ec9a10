# OpenBao, in all that its operators may have forgotten.
bao secrets enable transit
bao auth enable approle

# says: give our token's policy the capability update on {}/{}/{}
shop denied
echo 'path "transit/encrypt/denied" { capabilities = ["update"] }' | bao policy write denied -
! again
key_with_policy denied
keyway unlock shop --wait

# says: make it: bao write -f {}/keys/{} derived=true; or correct the setting key
mode=
key_with_policy absent; token absent
bao write transit/keys/absent/config deletion_allowed=true
bao delete transit/keys/absent
openbao absent > FILE
start --config FILE
! keyway keyspace create shop
bao write -f transit/keys/absent derived=true
keyway keyspace create shop

# says: make another key for Keyway: bao write -f {}/keys/NAME derived=true
mode=
bao write -f transit/keys/underived
bao token create -orphan -field=token > token; chmod 600 token
openbao underived > FILE
start --config FILE
! keyway keyspace create shop
stop
bao write -f transit/keys/NAME derived=true
openbao NAME > FILE
start --config FILE
keyway keyspace create shop

# says: correct the settings mount and namespace, or: bao secrets enable -path={} transit
mode=
bao token create -orphan -field=token > token; chmod 600 token
bao write -f transit/keys/mounted derived=true
openbao mounted | sed 's/^mount.*/mount = "other"/' > FILE
start --config FILE
! keyway keyspace create shop
stop
openbao mounted > SAME
start --config SAME
keyway keyspace create shop
stop
bao secrets enable -path=other transit
bao write -f other/keys/mounted derived=true
mv data data-1
start --config FILE
keyway keyspace create shop

# says: restore it: bao write -f {}/keys/{}/soft-delete-restore
shop gone
bao delete transit/keys/gone/soft-delete
! again
bao write -f transit/keys/gone/soft-delete-restore
keyway unlock shop --wait

# says: lower min_decryption_version: bao write {}/keys/{}/config min_decryption_version=N; before it is raised: keyway keyspace rewrap KEYSPACE --kms SAME
shop old
bao write -f transit/keys/old/rotate
bao write transit/keys/old/config min_decryption_version=2
! again
bao write transit/keys/old/config min_decryption_version=1
keyway unlock shop --wait
keyway keyspace rewrap shop --kms a
bao write transit/keys/old/config min_decryption_version=2
again

# says: restore the transit key from a backup of the server, or correct the setting key
# says: it did not wrap this key: if the transit key was recreated, restore the old one from a backup of the server; otherwise restore keyspaces.json
shop remade
bao write transit/keys/remade/config exportable=true allow_plaintext_backup=true deletion_allowed=true
bao read -field=backup transit/backup/remade > backup
bao delete transit/keys/remade
! again
bao write -f transit/keys/remade derived=true
! impatient unlock shop --wait
bao write transit/keys/remade/config deletion_allowed=true
bao delete transit/keys/remade
bao write transit/restore/remade backup=@backup
keyway unlock shop --wait

# says: renew what the setting auth names: the token, the secret id, or the certificate
# says: ; an unlock does not try earlier, since the server locks the role out after too many refusals: once the cause is fixed, write the file again (touch it)
mode=
key_with_policy role
bao write auth/approle/role/role token_policies=role
echo 00000000-0000-0000-0000-000000000000 > secret-id; chmod 600 secret-id
openbao role | sed '/auth/,$d' > FILE
role_id=$(bao read -field=role_id auth/approle/role/role/role-id)
printf '[kms.a.auth]\nmethod = "approle"\nrole_id = "%s"\nsecret_id_file = "%s/secret-id"\n' "$role_id" "$PWD" >> FILE
start --config FILE
! impatient keyspace create shop
keyway kms lock a
! impatient kms unlock a
! impatient kms unlock a
bao write -f -field=secret_id auth/approle/role/role/secret-id > secret-id
keyway kms unlock a
keyway keyspace create shop

# says: renew what the setting auth names, or correct its mount; a role is locked out for some minutes after too many refusals
mode=
key_with_policy mount
bao write auth/approle/role/mount token_policies=mount
bao write -f -field=secret_id auth/approle/role/mount/secret-id > secret-id; chmod 600 secret-id
openbao mount | sed '/auth/,$d' > FILE
role_id=$(bao read -field=role_id auth/approle/role/mount/role-id)
printf '[kms.a.auth]\nmethod = "approle"\nmount = "none"\nrole_id = "%s"\nsecret_id_file = "%s/secret-id"\n' "$role_id" "$PWD" >> FILE
start --config FILE
! impatient keyspace create shop
stop
sed -i 's/^mount = "none"/mount = "approle"/' FILE
start --config FILE
keyway keyspace create shop

# says: write a new token to the file of the setting auth; it is used as soon as it is there
shop ended
bao token revoke "$(cat token)"
! again
token ended
keyway unlock shop --wait

# says: write https:// in the setting address
mode=
key_with_policy scheme; token scheme
openbao scheme | sed 's|https://|http://|' > FILE
start --config FILE
! keyway keyspace create shop
stop
openbao scheme > FILE
start --config FILE
keyway keyspace create shop

# says: name the CA of the server's certificate, or a certificate that it signed itself, in ca_file, and check the certificate's names; the file is read again when it changes
mode=
key_with_policy trusted; token trusted
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x -days 9 -keyout key -out ca
openbao trusted | sed "s|^ca_file.*|ca_file = \"$PWD/ca\"|" > FILE
start --config FILE
! impatient keyspace create shop
cat "$BAO_CACERT" > ca
until keyway keyspace create shop; do sleep 0.1; done

# says: check that the path names the right file
# says: check the path, and that the service's user may read it
mode=
key_with_policy path; token path
openbao path | sed 's|^ca_file.*|ca_file = "/none"|' > FILE
refuses --config FILE
echo text > text
openbao path | sed "s|^ca_file.*|ca_file = \"$PWD/text\"|" > FILE
refuses --config FILE
openbao path > FILE
start --config FILE
keyway keyspace create shop

# says: put the token or secret id there, alone and without spaces
mode=
key_with_policy alone
openbao alone > FILE
echo 'token = x y' > token; chmod 600 token
refuses --config FILE
token alone
start --config FILE
until keyway keyspace create shop; do sleep 0.1; done

# says: check that the server runs, its address, and the network
mode=
key_with_policy address; token address
openbao address | sed 's|^address.*|address = "https://127.0.0.1:1"|' > FILE
start --config FILE
! impatient keyspace create shop
stop
openbao address > FILE
start --config FILE
keyway keyspace create shop

# says: check what stands between us and the server, and the setting address
# says: check the setting address: the server does not speak TLS 1.2 or 1.3 there
mode=
key_with_policy between; token between
openbao between > FILE
keywayd --data other --listen 127.0.0.1:0 --metrics 127.0.0.1:0 --shards 1 --arena-mib 1 > other.log 2>&1 & other=$!
until grep -q 'is listening' other.log; do sleep 0.02; done
http=$(sed -n 's/.*"metrics": *"\(.*\)".*/\1/p' other/endpoints.json)
sed "s|^address.*|address = \"http://$http\"|" FILE > HTTP
start --config HTTP
! impatient keyspace create shop
stop
sed "s|^address.*|address = \"https://$http\"|" FILE > HTTPS
start --config HTTPS
! impatient keyspace create shop
stop
kill $other; wait $other
start --config FILE
keyway keyspace create shop

# says: check that the files of the setting auth are a certificate and its own private key
mode=
for at in 1 2; do openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x -days 9 -keyout key-$at -out cert-$at; chmod 600 key-$at; done
openbao none | sed '/auth/,$d' > FILE
printf '[kms.a.auth]\nmethod = "cert"\ncert_file = "%s/cert-1"\nkey_file = "%s/key-2"\n' "$PWD" "$PWD" >> FILE
refuses --config FILE
sed -i s/key-2/key-1/ FILE
serves --config FILE

# says: create the key there; `keyway kms init` is for the local provider
mode=
key_with_policy there; token there; secret
openbao there > FILE
start --config FILE
! keyway kms init a --passphrase-fd 3 3< SECRET
keyway keyspace create shop

# says: give nothing: it logs in as its settings say
shop nothing
secret
keyway kms lock a
! keyway kms unlock a --passphrase-fd 3 3< SECRET
keyway kms unlock a

# says: unlock it: keyway kms unlock NAME
shop locked
keyway kms lock a
! keyway keyspace create shop-2
keyway kms unlock a
keyway keyspace create shop-2

# says: unseal it: bao operator unseal
shop sealed
bao operator seal
! again
bao operator unseal $UNSEAL_KEY
until bao read sys/mounts; do sleep 0.1; done
keyway unlock shop --wait

# says: wait; raise the server's rate limit quota if it comes back
shop limited
bao write sys/quotas/rate-limit/limited path=transit rate=1 interval=600s
bao write -f transit/keys/spent || true
! again
bao write sys/quotas/rate-limit/limited path=transit rate=1000
keyway unlock shop --wait

# says: install the package ca-certificates, or name the server's CA in the setting ca_file
mode=
key_with_policy roots; token roots
openbao roots > FILE
sed /ca_file/d FILE > NONE
mkdir empty
SSL_CERT_FILE=/none SSL_CERT_DIR="$PWD/empty" refuses --config NONE
SSL_CERT_FILE=/none SSL_CERT_DIR="$PWD/empty" start --config FILE
keyway keyspace create shop

# says: look at the server's health, and at the network; request_ms_max is the limit
mode=
key_with_policy silent; token silent
silence
openbao silent > FILE
sed "s|^address.*|address = \"http://$silent\"\nconnect_ms_max = 500\nrequest_ms_max = 500|; /ca_file/d" FILE > SILENT
start --config SILENT
! impatient keyspace create shop
stop
start --config FILE
keyway keyspace create shop

# says: look at the server's health: bao status; behind several, give the address that leads to the active one
mode=
key_with_policy standby; token standby
answers '{"errors":["local node not active but active cluster node not found"]}' 500
openbao standby > FILE
sed "s|^address.*|address = \"$canned\"|; /ca_file/d" FILE > STANDBY
start --config STANDBY
! impatient keyspace create shop
stop
bao status
start --config FILE
keyway keyspace create shop

# says: compare the settings of the vault provider with the server's
mode=
key_with_policy compared; token compared
answers '{"errors":["unsupported operation"]}' 405
openbao compared > FILE
sed "s|^address.*|address = \"$canned\"|; /ca_file/d" FILE > OTHER
start --config OTHER
! impatient keyspace create shop
stop
start --config FILE
keyway keyspace create shop

# says: correct the settings auth.mount and namespace, or enable the auth method there
mode=
key_with_policy login
bao write auth/approle/role/login token_policies=login
bao write -f -field=secret_id auth/approle/role/login/secret-id > secret-id; chmod 600 secret-id
openbao login | sed '/auth/,$d' > FILE
role_id=$(bao read -field=role_id auth/approle/role/login/role-id)
printf '[kms.a.auth]\nmethod = "approle"\nrole_id = "%s"\nsecret_id_file = "%s/secret-id"\n' "$role_id" "$PWD" >> FILE
sed 's|^mount.*|&\nnamespace = "none"|' FILE > OTHER
start --config OTHER
! impatient keyspace create shop
stop
start --config FILE
keyway keyspace create shop
