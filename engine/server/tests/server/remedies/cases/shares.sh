# Shares that another tool made, or that were made to deceive. $PYTHON has the reference implementation of SLIP-39.

# says: give a share that keyway made
shares
keyway kms lock local
"$PYTHON" -m shamir_mnemonic.cli create 2of3 --strength 256 --exponent 9 | grep -E '^([a-z]+ ){32}[a-z]+$' | head -1 > EXPONENT
"$PYTHON" -m shamir_mnemonic.cli create custom --strength 256 -t 2 -g 2 3 -g 2 3 | grep -E '^([a-z]+ ){32}[a-z]+$' | head -1 > GROUPS
test -s EXPONENT; test -s GROUPS
! keyway kms unlock local --share-fd 3 3< EXPONENT
! keyway kms unlock local --share-fd 3 3< GROUPS
keyway kms unlock local --share-fd 3 3< SHARE-1
keyway kms unlock local --share-fd 3 3< SHARE-2
keyway keyspace create prod

# says: give a share that keyway, or another tool that follows SLIP-39, made
shares
keyway kms lock local
# Of the standard's vectors: the padding of 256 bits is not zero, and the checksum is right.
sed -n '/nvalid padding (256 bits)/,/\]/p' "$VECTORS" | sed -n 's/.*"\(\([a-z]* \)\{32\}[a-z]*\)".*/\1/p' > PADDING
test -s PADDING
! keyway kms unlock local --share-fd 3 3< PADDING
keyway kms unlock local --share-fd 3 3< SHARE-1
keyway kms unlock local --share-fd 3 3< SHARE-2
keyway keyspace create prod

# says: give another share: those given so far stay, and are tried with it
shares
keyway kms lock local
forged SHARE-1 1 > FORGED
keyway kms unlock local --share-fd 3 3< FORGED
! keyway kms unlock local --share-fd 3 3< SHARE-2
keyway kms unlock local --share-fd 3 3< SHARE-3
keyway keyspace create prod

# says: give the shares that were made with this file; check that the file is the right one
shares
keyway kms lock local
"$PYTHON" -c '
import dataclasses, shamir_mnemonic as slip39
from shamir_mnemonic.share import Share
own = Share.from_mnemonic(open("SHARE-1").read())
others = map(Share.from_mnemonic, slip39.generate_mnemonics(1, [(2, 3)], bytes(32))[0])
terms = dict(identifier=own.identifier, extendable=own.extendable, iteration_exponent=own.iteration_exponent)
for other in others: open(f"OTHER-{other.index + 1}", "w").write(dataclasses.replace(other, **terms).mnemonic() + "\n")'
keyway kms unlock local --share-fd 3 3< OTHER-1
! keyway kms unlock local --share-fd 3 3< OTHER-2
keyway kms unlock local --share-fd 3 3< SHARE-1
keyway kms unlock local --share-fd 3 3< SHARE-2
keyway keyspace create prod

# says: begin again: keyway kms lock NAME wipes them, and so does a quarter of an hour
shares
keyway kms lock local
for at in $(seq 17); do forged SHARE-1 $at > FORGED-$at; done
keyway kms unlock local --share-fd 3 3< FORGED-1
for at in $(seq 2 17); do ! command keyway kms unlock local --share-fd 3 3< FORGED-$at; done
keyway kms lock local
keyway kms unlock local --share-fd 3 3< SHARE-1
keyway kms unlock local --share-fd 3 3< SHARE-2
keyway keyspace create prod

# says: the share has more than 512 bytes
# says: the share is empty
# says: the share holds letters outside of ASCII
shares
keyway kms lock local
head -c 600 /dev/zero | tr '\0' x > LONG; echo > EMPTY; printf '\303\274\n' > LETTERS
! keyway kms unlock local --share-fd 3 3< LONG
! keyway kms unlock local --share-fd 3 3< EMPTY
! keyway kms unlock local --share-fd 3 3< LETTERS
keyway kms unlock local --share-fd 3 3< SHARE-1
keyway kms unlock local --share-fd 3 3< SHARE-2
keyway keyspace create prod

# says: unlock it: each holder of a share runs keyway kms unlock NAME --share
shares
keyway kms lock local
! keyway keyspace create prod
keyway kms unlock local --share-fd 3 3< SHARE-1
keyway kms unlock local --share-fd 3 3< SHARE-2
keyway keyspace create prod
