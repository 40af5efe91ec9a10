# AWS KMS: moto behind its proxy, and what an account, a profile and a machine can have.
unset AWS_PROFILE AWS_REGION AWS_DEFAULT_REGION AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN

# says: give credentials by profile, environment, web identity, container or instance role
mode=
export HOME="$PWD" AWS_EC2_METADATA_DISABLED=true
amazon "$(aws_key)" | sed /credentials_file/d > FILE
rm credentials
start --config FILE
! impatient keyspace create shop
mkdir .aws; cp "$CREDENTIALS" .aws/credentials
until impatient keyspace create shop; do sleep 0.1; done
stop
rm -r .aws
AWS_ACCESS_KEY_ID=id AWS_SECRET_ACCESS_KEY=none start --config FILE
keyway keyspace create environment
stop
answers '{"AccessKeyId":"id","SecretAccessKey":"none","Token":"t","Expiration":"2099-01-01T00:00:00Z"}'
AWS_CONTAINER_CREDENTIALS_FULL_URI=$canned/ start --config FILE
keyway keyspace create container
stop
echo token > web
export AWS_ROLE_ARN=arn:aws:iam::123456789012:role/keyway AWS_WEB_IDENTITY_TOKEN_FILE="$PWD/web" AWS_ENDPOINT_URL_STS=$MOTO
start --config FILE
keyway keyspace create identity

# says: check profile, credentials_file and the AWS configuration files
mode=
export HOME="$PWD" AWS_EC2_METADATA_DISABLED=true
amazon "$(aws_key)" > FILE
echo '[default' > credentials
start --config FILE
! impatient keyspace create shop
cp "$CREDENTIALS" credentials
until impatient keyspace create shop; do sleep 0.1; done
stop
sed 's/^region/profile = "other"\nregion/' FILE > OTHER
start --config OTHER
! impatient keyspace create shop-2
sed 's/default/other/' "$CREDENTIALS" >> credentials
until impatient keyspace create shop-2; do sleep 0.1; done

# says: check the source: STS, the container's or the machine's metadata, the credential process
mode=
amazon "$(aws_key)" > FILE
printf '[default]\ncredential_process = cat %s/process\n' "$PWD" > credentials
start --config FILE
! impatient keyspace create shop
echo '{"Version":1,"AccessKeyId":"id","SecretAccessKey":"none"}' > process
until impatient keyspace create shop; do sleep 0.1; done

# says: check the network to AWS KMS and to the source of credentials
mode=
key=$(aws_key)
silence
amazon "$key" "http://$silent" | sed 's/^region/call_ms_max = 500\nconnect_ms_max = 500\nregion/' > FILE
start --config FILE
! impatient keyspace create shop
stop
amazon "$key" > FILE
start --config FILE
keyway keyspace create shop

# says: check the network to AWS KMS, endpoint_url, and the machine's trusted root certificates
mode=
key=$(aws_key)
amazon "$key" http://127.0.0.1:1 > FILE
start --config FILE
! impatient keyspace create shop
stop
amazon "$key" > FILE
start --config FILE
keyway keyspace create shop

# says: check that endpoint_url is AWS KMS; otherwise wait for it to recover
mode=
key=$(aws_key)
amazon "$key" $PROXY > FILE
start --config FILE
proxy '{"service":"kms","response":{"abort_frac":0.5}}'
! impatient keyspace create shop
proxy
until impatient keyspace create shop; do sleep 0.1; done

# says: look the code up among the errors of AWS KMS; without one, check that endpoint_url is AWS KMS
mode=
key=$(aws_key)
silence
kill -CONT $silent_id
amazon "$key" "http://$silent" > OTHER
start --config OTHER
! impatient keyspace create shop
stop
amazon "$key" > FILE
start --config FILE
keyway keyspace create shop

# says: check that endpoint_url is AWS KMS
mode=
key=$(aws_key)
answers "{\"KeyId\":\"$key\"}"
amazon "$key" $canned > OTHER
start --config OTHER
! impatient keyspace create shop
stop
amazon "$key" > FILE
start --config FILE
keyway keyspace create shop

# says: check that endpoint_url is AWS KMS, and name the key by its ARN
mode=
key=$(aws_key)
answers '{"KeyId":"arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab","Plaintext":"AAAA","CiphertextBlob":"AAAA"}'
amazon "$key" $canned > OTHER
start --config OTHER
! impatient keyspace create shop
stop
amazon "$key" > FILE
start --config FILE
keyway keyspace create shop

# says: check key_id, region and the account of the credentials
mode=
key=$(aws_key)
amazon 1234abcd-12ab-34cd-56ef-1234567890ab > FILE
start --config FILE
! impatient keyspace create shop
stop
amazon "${key#*/}" | sed 's/^region.*/region = "eu-west-1"/' > FILE
start --config FILE
! impatient keyspace create shop
stop
amazon "${key#*/}" > FILE
start --config FILE
keyway keyspace create shop

# The proxy answers as AWS does, since moto lets a key for signatures make data keys.
# says: name a symmetric encryption key (SYMMETRIC_DEFAULT) in key_id
mode=
amazon "$(aws_key '{"KeyUsage":"SIGN_VERIFY","KeySpec":"ECC_NIST_P256"}')" $PROXY > FILE
proxy_answers InvalidKeyUsageException 400
start --config FILE
! impatient keyspace create shop
proxy
stop
amazon "$(aws_key)" > FILE
start --config FILE
keyway keyspace create shop

# says: name a SYMMETRIC_DEFAULT key for ENCRYPT_DECRYPT in key_id
mode=
amazon "$(aws_key '{"KeyUsage":"ENCRYPT_DECRYPT","KeySpec":"RSA_2048"}')" > FILE
start --config FILE
keyway kms lock a
! impatient kms unlock a
stop
amazon "$(aws_key)" > FILE
start --config FILE
keyway kms lock a
keyway kms unlock a
keyway keyspace create shop

# The proxy answers as AWS does when a DEK is of another key, which moto does not check.
# says: set key_id to the key that wrapped this data; an alias may point at another key now
mode=
key=$(aws_key)
amazon "$key" $PROXY > FILE
start --config FILE
keyway keyspace create shop
keyway key generate shop/ed --alg ed25519
proxy_answers IncorrectKeyException 400
! again
stop
proxy
amazon "$key" > FILE
start --config FILE
keyway unlock shop --wait
keyway key rotate shop/ed

# says: the server's log and `keyway status` say more
# says: set key_id to that key, or to an alias in its account and region
mode=
key=$(aws_key)
amazon "$key" > FILE
start --config FILE
keyway keyspace create shop
keyway key generate shop/ed --alg ed25519
stop
amazon "$(aws_key)" > OTHER
start --config OTHER
! impatient unlock shop --wait
grep 'set key_id' log
keyway status | grep shop
stop
start --config FILE
keyway unlock shop --wait
keyway key rotate shop/ed
stop
aws_call CreateAlias "{\"AliasName\":\"alias/that\",\"TargetKeyId\":\"$key\"}"
amazon alias/that > ALIAS
start --config ALIAS
keyway unlock shop --wait
keyway key rotate shop/ed

# says: set region, name the key by its ARN, or set AWS_REGION
mode=
export HOME="$PWD" AWS_EC2_METADATA_DISABLED=true
key=$(aws_key)
amazon "${key#*/}" > FILE
sed /^region/d FILE > NONE
start --config NONE
! impatient keyspace create shop
stop
start --config FILE
keyway keyspace create shop
stop
amazon "$key" | sed /^region/d > ARN
start --config ARN
keyway keyspace create shop-2
stop
AWS_REGION=$REGION start --config NONE
keyway keyspace create shop-3

# says: set region; otherwise it is read from the machine's metadata service
mode=
silence
export HOME="$PWD" AWS_EC2_METADATA_SERVICE_ENDPOINT="http://$silent"
key=$(aws_key)
amazon "${key#*/}" > FILE
sed 's/^region.*/call_ms_max = 500\nconnect_ms_max = 500/' FILE > NONE
start --config NONE
! impatient keyspace create shop
stop
start --config FILE
keyway keyspace create shop

# The proxy answers as AWS does while this machine's clock is wrong.
# says: set the clock of this machine: AWS accepts 5 minutes of difference
mode=
amazon "$(aws_key)" $PROXY > FILE
start --config FILE
proxy_answers RequestTimeTooSkewed 403
! impatient keyspace create shop
proxy
until impatient keyspace create shop; do sleep 0.1; done

# says: take the http endpoint out of AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_KMS and the profile
mode=
export HOME="$PWD"
key=$(aws_key)
amazon "$key" | sed /endpoint_url/d > FILE
AWS_ENDPOINT_URL_KMS=http://192.0.2.1 start --config FILE
! impatient keyspace create shop
stop
AWS_ENDPOINT_URL_KMS=$MOTO start --config FILE
keyway keyspace create shop

# says: unlock it without one; its credentials come from the AWS configuration
mode=
secret
amazon "$(aws_key)" > FILE
start --config FILE
keyway kms lock a
! keyway kms unlock a --passphrase-fd 3 3< SECRET
keyway kms unlock a
keyway keyspace create shop

# says: install the package ca-certificates, or set SSL_CERT_FILE
mode=
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE -days 9 -keyout key -out cert
port=$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
setpriv --pdeathsig KILL "$MOTO_SERVER" --host 127.0.0.1 --port $port -s -c cert -k key > moto.log 2>&1 & canned_id=$!
until curl -sk "https://127.0.0.1:$port/moto-api/" > answer; do sleep 0.1; done
key=$(CURL_CA_BUNDLE=cert MOTO="https://127.0.0.1:$port" aws_key)
amazon "$key" "https://127.0.0.1:$port" > FILE
mkdir empty
SSL_CERT_FILE=/none SSL_CERT_DIR="$PWD/empty" start --config FILE
! impatient keyspace create shop
stop
SSL_CERT_FILE="$PWD/cert" start --config FILE
keyway keyspace create shop

# says: check which KMS the keyspace uses; restore the wrapped key from a backup
# says: restore the wrapped key from a backup; it was changed, or belongs to another keyspace or cluster
mode=; secret
local_kms > LOCAL
amazon "$(aws_key)" > FILE
start --config LOCAL
keyway kms init a --passphrase-fd 3 3< SECRET
stop
cp -a data local
start --config FILE
keyway keyspace create shop
keyway key generate shop/ed --alg ed25519
stop
start --config LOCAL
keyway kms unlock a --passphrase-fd 3 3< SECRET
! impatient unlock shop --wait
stop
start --config FILE
keyway unlock shop --wait
keyway key rotate shop/ed
stop
mv data aws; mv local data
start --config LOCAL
keyway kms unlock a --passphrase-fd 3 3< SECRET
keyway keyspace create here
keyway key generate here/ed --alg ed25519
stop
start --config FILE
! impatient unlock here --wait
stop
start --config LOCAL
keyway unlock here --wait --passphrase-fd 3 3< SECRET
keyway key rotate here/ed

# says: check that it is the KMS and the key under which the DEK was wrapped
mode=
key=$(aws_key)
amazon "$key" > FILE
start --config FILE
keyway keyspace create shop
keyway key generate shop/ed --alg ed25519
stop
answers "{\"KeyId\":\"$key\",\"Plaintext\":\"COUNTAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\",\"CiphertextBlob\":\"AAAA\"}"
amazon "$key" $canned > OTHER
start --config OTHER
! impatient keyspace create shop-2
! impatient unlock shop --wait
stop
start --config FILE
keyway unlock shop --wait
keyway key rotate shop/ed
keyway keyspace create shop-2

# says: check the KMS and the way to it; call_ms_max of the call budget is the limit
# says: try again, or raise the call budget's unlock_ms_max
mode=
key=$(aws_key)
silence
{ amazon "$key" "http://$silent"; printf 'call_ms_max = 300\nunlock_ms_max = 300\n'; } > OTHER
start --config OTHER
! impatient keyspace create shop
keyway kms lock a
! impatient kms unlock a
stop
{ amazon "$key"; printf 'call_ms_max = 5000\nunlock_ms_max = 30000\n'; } > FILE
start --config FILE
keyway kms lock a
keyway kms unlock a
keyway keyspace create shop

# says: it goes on at the server; follow it with `keyway unlock {} --ticket {} --wait`
mode=
{ amazon "$(aws_key)" $PROXY; printf 'call_ms_max = 60000\ntotal_ms_max = 60000\n'; } | sed 's/^region/call_ms_max = 60000\nregion/' > FILE
start --config FILE
keyway keyspace create shop
keyway key generate shop/ed --alg ed25519
keyway lock shop
proxy '{"service":"kms","latency":8000}'
! keyway unlock shop --wait=1s 2> why
cat why
proxy
eval "$(sed -n 's/.*follow it with `\(.*\)`.*/\1/p' why)"
keyway key rotate shop/ed

# says: wait, or raise the call budget's rate_per_s or concurrency_max
mode=
{ amazon "$(aws_key)"; printf 'rate_per_s = 1\nburst = 1\ncall_ms_max = 900\ntotal_ms_max = 900\n'; } > FILE
start --config FILE
! impatient keyspace create shop
stop
sed -i 's/^rate_per_s.*/rate_per_s = 10/; s/^burst.*/burst = 10/' FILE
start --config FILE
keyway keyspace create shop

# says: try again, or allow more time with --timeout
mode=
amazon "$(aws_key)" $PROXY > FILE
start --config FILE
proxy '{"service":"kms","latency":1500}'
! command keyway --timeout 1s keyspace create shop
keyway keyspace create shop-2
proxy
