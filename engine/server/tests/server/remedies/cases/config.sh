# The configuration file.

# says: default_kms `{}` is not one of the KMSes {}; add [kms.{}] or name another
{ echo 'default_kms = "b"'; local_kms; } > FILE
refuses --config FILE
{ echo 'default_kms = "a"'; local_kms; } > FILE
serves --config FILE
{ echo 'default_kms = "b"'; local_kms; local_kms 'file = "b.kek"' | sed s/kms.a/kms.b/; } > FILE
serves --config FILE

# says: there are several KMSes ({}); say with default_kms which one new keyspaces use
{ local_kms; local_kms 'file = "b.kek"' | sed s/kms.a/kms.b/; } > FILE
refuses --config FILE
sed -i '1idefault_kms = "b"' FILE
serves --config FILE

# says: `{}` is no name for a KMS; use 1 to {} of a-z, 0-9, `.`, `_` and `-`
local_kms | sed s/kms.a/kms.A/ > FILE
refuses --config FILE
local_kms | sed s/kms.a/kms.a-1/ > FILE
serves --config FILE

# says: names no provider; write provider = "local", "vault", "aws" or "pkcs11"
local_kms | grep -v provider > FILE
refuses --config FILE
local_kms > FILE
serves --config FILE

# says: has an unlock_without_secret that is {} {}; write true or false
local_kms 'unlock_without_secret = "yes"' > FILE
refuses --config FILE
local_kms 'unlock_without_secret = true' > FILE
serves --config FILE

# says: budget of [kms.{}] is not a table; write [kms.{}.budget]
local_kms 'budget = 3' > FILE
refuses --config FILE
local_kms '[kms.a.budget]' > FILE
serves --config FILE

# says: correct the setting
{ local_kms; printf '[kms.a.budget]\nrate_per_s = 0\n'; } > FILE
refuses --config FILE
{ local_kms; printf '[kms.a.budget]\nrate_per_s = 7\n'; } > FILE
serves --config FILE

# says: give 1 to 60000 ms for each
mode=
vault | sed 's/^request_ms_max.*/request_ms_max = 60001/' > FILE
refuses --config FILE
vault | sed 's/^request_ms_max.*/request_ms_max = 60000/' > FILE
serves --config FILE

# says: give request_ms_max as much or more
mode=
vault | sed 's/^request_ms_max.*/request_ms_max = 999/' > FILE
refuses --config FILE
vault | sed 's/^request_ms_max.*/request_ms_max = 1000/' > FILE
serves --config FILE

# says: give https://HOST:PORT
mode=
for address in 127.0.0.1:8200 https://user@127.0.0.1 https://127.0.0.1/v1 ftp://127.0.0.1 'https://127.0.0.1?x' ''
do vault | sed "s|^address.*|address = \"$address\"|" > FILE; refuses --config FILE
done
vault | sed 's|^address.*|address = "https://127.0.0.1:8200"|' > FILE
serves --config FILE

# says: use https://; http:// is for a loopback host, such as an agent on this machine
mode=
vault | sed 's|^address.*|address = "http://192.0.2.1:8200"|' > FILE
refuses --config FILE
for address in https://192.0.2.1:8200 http://127.0.0.1:8200
do vault | sed "s|^address.*|address = \"$address\"|" > FILE; serves --config FILE
done

# says: use https://: the client certificate is shown in the TLS handshake
mode=
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x -days 9 -keyout key -out cert; chmod 600 key
vault | sed '/auth/,$d' > FILE
printf '[kms.a.auth]\nmethod = "cert"\ncert_file = "%s/cert"\nkey_file = "%s/key"\n' "$PWD" "$PWD" >> FILE
sed 's|^address.*|address = "http://127.0.0.1:8200"|' FILE > HTTP
refuses --config HTTP
serves --config FILE

# says: give 1 to 256 of: letters, digits, '-', '_' and '.'
mode=
vault | sed 's/^key = .*/key = "a b"/' > FILE
refuses --config FILE
vault | sed 's/^key = .*/key = "a-b_c.d"/' > FILE
serves --config FILE

# says: give names of letters, digits, '-', '_' and '.', with '/' between them and at no end
mode=
vault | sed 's|^mount = "transit"|mount = "/transit/"|' > FILE
refuses --config FILE
vault | sed 's|^mount = "transit"|mount = "team-a/transit"|' > FILE
serves --config FILE

# says: give 1 to 256 printable characters of ASCII, without spaces
mode=
vault | sed 's/^role_id.*/role_id = "a role"/' > FILE
refuses --config FILE
vault | sed 's/^role_id.*/role_id = "a-role"/' > FILE
serves --config FILE

# says: name a region, such as eu-central-1
mode=
aws | sed 's/^region.*/region = "EU"/' > FILE
refuses --config FILE
aws | sed 's/^region.*/region = "eu-central-1"/' > FILE
serves --config FILE

# says: leave region out, or name a key of that region
mode=
key='arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab'
aws | sed "s|^key_id.*|key_id = \"$key\"|" > FILE
refuses --config FILE
sed 's/us-east-1/eu-central-1/' FILE > SAME
serves --config SAME
sed /^region/d FILE > OUT
serves --config OUT

# says: name a profile of the AWS configuration, or leave it out
mode=
aws | sed 's/^profile.*/profile = ""/' > FILE
refuses --config FILE
aws | sed /^profile/d > FILE
serves --config FILE

# says: give https://HOST[:PORT]; http is for loopback addresses alone
mode=
for url in http://192.0.2.1 https://user@192.0.2.1 https://192.0.2.1/path none
do aws | sed "s|^endpoint_url.*|endpoint_url = \"$url\"|" > FILE; refuses --config FILE
done
for url in https://192.0.2.1:443 http://127.0.0.1:1
do aws | sed "s|^endpoint_url.*|endpoint_url = \"$url\"|" > FILE; serves --config FILE
done

# says: connect_ms_max goes up to call_ms_max, and call_ms_max up to a minute
mode=
aws | sed 's/^connect_ms_max.*/connect_ms_max = 2001/' > FILE
refuses --config FILE
aws | sed 's/^call_ms_max.*/call_ms_max = 60001/' > FILE
refuses --config FILE
aws | sed 's/^call_ms_max.*/call_ms_max = 60000/; s/^connect_ms_max.*/connect_ms_max = 60000/' > FILE
serves --config FILE

# says: give a key's id, its ARN, alias/NAME, or an alias's ARN
mode=
aws | sed 's|^key_id.*|key_id = "my key"|' > FILE
refuses --config FILE
id=1234abcd-12ab-34cd-56ef-1234567890ab; arn=arn:aws:kms:eu-central-1:123456789012
for key in $id $arn:key/$id alias/keyway $arn:alias/keyway
do aws | sed "s|^key_id.*|key_id = \"$key\"|" > FILE; serves --config FILE
done

# says: give the module's full path, from / on
mode=
pkcs11 | sed 's|^module.*|module = "libsofthsm2.so"|' > FILE
refuses --config FILE
pkcs11 > FILE
serves --config FILE

# says: give the {}'s label, 1 to {} bytes
mode=
pkcs11 | sed 's/^token.*/token = ""/' > FILE
refuses --config FILE
pkcs11 | sed 's/^token.*/token = "a token"/' > FILE
serves --config FILE

# says: give 1 to 600000 milliseconds
mode=
pkcs11 | sed 's/^call_ms_max.*/call_ms_max = 600001/' > FILE
refuses --config FILE
pkcs11 | sed 's/^call_ms_max.*/call_ms_max = 600000/' > FILE
serves --config FILE
