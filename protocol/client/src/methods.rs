//! The typed calls of a client, written once for both flavours.

/// Implements the typed calls on a type that has `call`, `shard_count` and `learn_keyspace`.
/// The brackets hold what makes a function and a call asynchronous, or nothing.
macro_rules! typed_calls {
    ($client:ty, [$($asyncness:tt)?], [$($wait:tt)*]) => {
        impl $client {
            /// Signs; the answer holds the signature's bytes (ASN.1 DER for ECDSA).
            pub $($asyncness)? fn sign(
                &self,
                key: &$crate::KeyPath,
                scheme: $crate::Scheme,
                input: $crate::Input<'_>,
            ) -> Result<$crate::Answer<Vec<u8>>, $crate::Error> {
                self.call($crate::Call::sign(key, scheme, input))$($wait)*
            }

            /// Verifies a signature with one version of the key, or with any live one if
            /// `key_version` is 0. A signature that does not verify is an error with the status
            /// MISMATCH.
            pub $($asyncness)? fn verify(
                &self,
                key: &$crate::KeyPath,
                scheme: $crate::Scheme,
                input: $crate::Input<'_>,
                signature: &[u8],
                key_version: u32,
            ) -> Result<$crate::Answer<()>, $crate::Error> {
                self.call($crate::Call::verify(key, scheme, input, signature, key_version))$($wait)*
            }

            /// Makes a MAC; the answer holds the tag.
            pub $($asyncness)? fn mac(
                &self,
                key: &$crate::KeyPath,
                message: &[u8],
            ) -> Result<$crate::Answer<Vec<u8>>, $crate::Error> {
                self.call($crate::Call::mac(key, message))$($wait)*
            }

            /// Verifies a MAC, with any live version of the key. A tag that does not verify is an
            /// error with the status MISMATCH.
            pub $($asyncness)? fn verify_mac(
                &self,
                key: &$crate::KeyPath,
                message: &[u8],
                tag: &[u8],
            ) -> Result<$crate::Answer<()>, $crate::Error> {
                self.call($crate::Call::verify_mac(key, message, tag))$($wait)*
            }

            /// Encrypts; the answer holds key version, nonce, ciphertext and tag as `decrypt`
            /// takes them. The associated data is authenticated and not part of it.
            pub $($asyncness)? fn encrypt(
                &self,
                key: &$crate::KeyPath,
                aad: &[u8],
                plaintext: &[u8],
            ) -> Result<$crate::Answer<Vec<u8>>, $crate::Error> {
                self.call($crate::Call::encrypt(key, aad, plaintext))$($wait)*
            }

            /// Decrypts what `encrypt` gave, with the same associated data. What does not verify
            /// is an error with the status MISMATCH.
            pub $($asyncness)? fn decrypt(
                &self,
                key: &$crate::KeyPath,
                aad: &[u8],
                sealed: &[u8],
            ) -> Result<$crate::Answer<$crate::Secret>, $crate::Error> {
                self.call($crate::Call::decrypt(key, aad, sealed))$($wait)*
            }

            /// Derives `out_len` bytes, 1 to 4096.
            pub $($asyncness)? fn derive(
                &self,
                key: &$crate::KeyPath,
                salt: &[u8],
                info: &[u8],
                out_len: u16,
            ) -> Result<$crate::Answer<$crate::Secret>, $crate::Error> {
                self.call($crate::Call::derive(key, salt, info, out_len))$($wait)*
            }

            /// The public key of a version, 0 for the newest, as SubjectPublicKeyInfo DER.
            pub $($asyncness)? fn public_key(
                &self,
                key: &$crate::KeyPath,
                key_version: u32,
            ) -> Result<$crate::Answer<Vec<u8>>, $crate::Error> {
                self.call($crate::Call::public_key(key, key_version))$($wait)*
            }

            /// The secret of a version of an exportable key, 0 for the newest: raw bytes if the
            /// key is symmetric, else PKCS#8 DER.
            pub $($asyncness)? fn get(
                &self,
                key: &$crate::KeyPath,
                key_version: u32,
            ) -> Result<$crate::Answer<$crate::Secret>, $crate::Error> {
                self.call($crate::Call::get(key, key_version))$($wait)*
            }

            /// Makes a key. If there is one of that name the status is CONFLICT.
            pub $($asyncness)? fn key_generate(
                &self,
                key: &$crate::KeyPath,
                algorithm: $crate::Algorithm,
                options: $crate::KeyOptions,
            ) -> Result<$crate::Answer<()>, $crate::Error> {
                self.call($crate::Call::key_generate(key, algorithm, options))$($wait)*
            }

            /// Brings a key. `None` lets the server find the algorithm in PKCS#8.
            pub $($asyncness)? fn key_import(
                &self,
                key: &$crate::KeyPath,
                algorithm: Option<$crate::Algorithm>,
                options: $crate::KeyOptions,
                format: $crate::KeyFormat,
                bytes: &[u8],
            ) -> Result<$crate::Answer<()>, $crate::Error> {
                self.call($crate::Call::key_import(key, algorithm, options, format, bytes))$($wait)*
            }

            /// Brings a key's next version, or lets the server make it. The answer's
            /// `key_version` is the new one.
            pub $($asyncness)? fn key_rotate(
                &self,
                key: &$crate::KeyPath,
                material: Option<($crate::KeyFormat, &[u8])>,
            ) -> Result<$crate::Answer<()>, $crate::Error> {
                self.call($crate::Call::key_rotate(key, material))$($wait)*
            }

            /// Revokes a key permanently.
            pub $($asyncness)? fn key_revoke(
                &self,
                key: &$crate::KeyPath,
            ) -> Result<$crate::Answer<()>, $crate::Error> {
                self.call($crate::Call::key_revoke(key))$($wait)*
            }

            /// Revokes one version of a key permanently. If it is the latest, the key makes nothing new
            /// until it is rotated: the status is REVOKED.
            pub $($asyncness)? fn key_revoke_version(
                &self,
                key: &$crate::KeyPath,
                key_version: u32,
            ) -> Result<$crate::Answer<()>, $crate::Error> {
                self.call($crate::Call::key_revoke_version(key, key_version))$($wait)*
            }

            /// Removes a key's versions below a number. The newest always stays.
            pub $($asyncness)? fn key_trim(
                &self,
                key: &$crate::KeyPath,
                below: u32,
            ) -> Result<$crate::Answer<()>, $crate::Error> {
                self.call($crate::Call::key_trim(key, below))$($wait)*
            }

            /// Deletes a revoked key. Its id can be used again; versions go on where they ended.
            pub $($asyncness)? fn key_delete(
                &self,
                key: &$crate::KeyPath,
            ) -> Result<$crate::Answer<()>, $crate::Error> {
                self.call($crate::Call::key_delete(key))$($wait)*
            }

            /// All keys of a keyspace, by id. It asks shard after shard, page by page; each page
            /// has the whole deadline.
            pub $($asyncness)? fn key_list(
                &self,
                keyspace: &$crate::KeyspaceName,
            ) -> Result<Vec<$crate::ListedKey>, $crate::Error> {
                let mut keys = Vec::new();
                for shard in 0..self.shard_count() {
                    let mut cursor = Vec::new();
                    loop {
                        let call = $crate::Call::key_list_page(keyspace, shard, 0, &cursor);
                        let page = self.call(call)$($wait)*?.value;
                        keys.extend(page.keys);
                        // A cursor that does not advance would make this loop endless.
                        if page.cursor.is_empty() || page.cursor == cursor {
                            break;
                        }
                        cursor = page.cursor;
                    }
                }
                keys.sort_by(|a, b| a.key_id.cmp(&b.key_id));
                Ok(keys)
            }

            /// Makes a keyspace; the answer holds its id.
            pub $($asyncness)? fn keyspace_create(
                &self,
                name: &$crate::KeyspaceName,
                settings: &[(&str, &str)],
            ) -> Result<$crate::Answer<u32>, $crate::Error> {
                let answer = self.call($crate::Call::keyspace_create(name, settings))$($wait)*?;
                self.learn_keyspace(name, answer.value);
                Ok(answer)
            }

            /// Changes settings of a keyspace. They act at once and last.
            pub $($asyncness)? fn keyspace_set(
                &self,
                keyspace: &$crate::KeyspaceName,
                settings: &[(&str, &str)],
            ) -> Result<$crate::Answer<()>, $crate::Error> {
                self.call($crate::Call::keyspace_set(keyspace, settings))$($wait)*
            }

            /// Changes settings of a keyspace temporarily. The server reverts them automatically after
            /// that time from the request's arrival, in whole ms, also across a restart.
            pub $($asyncness)? fn keyspace_set_for(
                &self,
                keyspace: &$crate::KeyspaceName,
                settings: &[(&str, &str)],
                lasts: std::time::Duration,
            ) -> Result<$crate::Answer<()>, $crate::Error> {
                self.call($crate::Call::keyspace_set_for(keyspace, settings, lasts))$($wait)*
            }

            /// The last changes of a keyspace, newest first: settings, grants, lock, KMS, DEK.
            pub $($asyncness)? fn keyspace_history(
                &self,
                keyspace: &$crate::KeyspaceName,
            ) -> Result<$crate::Answer<$crate::KeyspaceHistory>, $crate::Error> {
                self.call($crate::Call::keyspace_history(keyspace))$($wait)*
            }

            /// All keyspaces that the principal may use, by id. It asks page by page; each page
            /// has the whole deadline.
            pub $($asyncness)? fn keyspace_list(
                &self,
            ) -> Result<Vec<$crate::KeyspaceInfo>, $crate::Error> {
                let mut keyspaces: Vec<$crate::KeyspaceInfo> = Vec::new();
                loop {
                    let after = keyspaces.last().map_or(0, |last| last.id);
                    let call = $crate::Call::keyspace_list_page(after);
                    let page = self.call(call)$($wait)*?.value;
                    let rises = page.keyspaces.first().is_some_and(|first| first.id > after);
                    keyspaces.extend(page.keyspaces);
                    // A list that does not advance would make this loop endless.
                    if !page.more || !rises {
                        return Ok(keyspaces);
                    }
                }
            }

            /// Gives a keyspace a new DEK; the answer holds its generation, from 1. New keys are
            /// sealed under it at once; those that are there follow in the background, which
            /// `keyspace_list` shows as `reseal`.
            pub $($asyncness)? fn keyspace_rotate(
                &self,
                keyspace: &$crate::KeyspaceName,
            ) -> Result<$crate::Answer<u32>, $crate::Error> {
                self.call($crate::Call::keyspace_rotate(keyspace))$($wait)*
            }

            /// Has another KMS wrap a keyspace's DEKs. The KMS that did so far could still unwrap
            /// what it wrapped, from a backup, until a `keyspace_rotate` follows.
            pub $($asyncness)? fn keyspace_rewrap(
                &self,
                keyspace: &$crate::KeyspaceName,
                kms: &$crate::KmsName,
            ) -> Result<$crate::Answer<()>, $crate::Error> {
                self.call($crate::Call::keyspace_rewrap(keyspace, kms))$($wait)*
            }

            /// Destroys the DEKs that a keyspace's rotations have retired, which are kept for 30 days
            /// otherwise. A backup from before the last rotation cannot be read any more. The answer
            /// holds how many there were.
            pub $($asyncness)? fn keyspace_destroy_deks(
                &self,
                keyspace: &$crate::KeyspaceName,
            ) -> Result<$crate::Answer<u32>, $crate::Error> {
                self.call($crate::Call::keyspace_destroy_deks(keyspace))$($wait)*
            }

            /// The hot keys of a keyspace, hottest first, of all shards: at most `limit` of them, at
            /// most 128, 0 for as many.
            pub $($asyncness)? fn keyspace_hot(
                &self,
                keyspace: &$crate::KeyspaceName,
                by: $crate::HotBy,
                limit: u16,
            ) -> Result<$crate::Answer<$crate::HotKeys>, $crate::Error> {
                self.call($crate::Call::keyspace_hot(keyspace, by, limit))$($wait)*
            }

            /// Has a KMS make its key, where there is none yet, and leaves it unlocked. The answer
            /// holds the shares, none for a passphrase. It is the only time that they are shown.
            pub $($asyncness)? fn kms_init(
                &self,
                kms: &$crate::KmsName,
                custody: $crate::Custody<'_>,
            ) -> Result<$crate::Answer<Vec<$crate::Secret>>, $crate::Error> {
                self.call($crate::Call::kms_init(kms, custody))$($wait)*
            }

            /// Unlocks a KMS, or gives it one share of several. A wrong secret is an error with the
            /// status FORBIDDEN.
            pub $($asyncness)? fn kms_unlock(
                &self,
                kms: &$crate::KmsName,
                with: $crate::UnlockWith<'_>,
            ) -> Result<$crate::Answer<$crate::KmsOpening>, $crate::Error> {
                self.call($crate::Call::kms_unlock(kms, with))$($wait)*
            }

            /// Wipes what a KMS holds in memory, its key above all, and locks the keyspaces that it
            /// wraps.
            pub $($asyncness)? fn kms_lock(
                &self,
                kms: &$crate::KmsName,
            ) -> Result<$crate::Answer<()>, $crate::Error> {
                self.call($crate::Call::kms_lock(kms))$($wait)*
            }

            /// Locks every keyspace and every KMS.
            pub $($asyncness)? fn lock_all(&self) -> Result<$crate::Answer<()>, $crate::Error> {
                self.call($crate::Call::lock_all())$($wait)*
            }

            /// Reloads a key whatever its age. When it returns, nothing loaded before the call
            /// is served any more; the answer's `key_version` is the version loaded.
            pub $($asyncness)? fn force_refresh(
                &self,
                key: &$crate::KeyPath,
            ) -> Result<$crate::Answer<()>, $crate::Error> {
                self.call($crate::Call::force_refresh(key))$($wait)*
            }

            /// Drops a keyspace's plaintext at once, and keeps it locked until it is unlocked.
            pub $($asyncness)? fn lock(
                &self,
                keyspace: &$crate::KeyspaceName,
            ) -> Result<$crate::Answer<()>, $crate::Error> {
                self.call($crate::Call::lock(keyspace))$($wait)*
            }

            /// Starts to unlock a keyspace, with what its KMS needs; the answer holds the ticket to
            /// follow it by.
            pub $($asyncness)? fn unlock(
                &self,
                keyspace: &$crate::KeyspaceName,
                with: $crate::UnlockWith<'_>,
            ) -> Result<$crate::Answer<u64>, $crate::Error> {
                self.call($crate::Call::unlock(keyspace, with))$($wait)*
            }

            /// As `unlock`, and the server keeps trying until the KMS answers.
            pub $($asyncness)? fn unlock_with_retry(
                &self,
                keyspace: &$crate::KeyspaceName,
                with: $crate::UnlockWith<'_>,
            ) -> Result<$crate::Answer<u64>, $crate::Error> {
                self.call($crate::Call::unlock_with_retry(keyspace, with))$($wait)*
            }

            /// How an unlock is going.
            pub $($asyncness)? fn unlock_status(
                &self,
                keyspace: &$crate::KeyspaceName,
                ticket: u64,
            ) -> Result<$crate::Answer<$crate::UnlockStatus>, $crate::Error> {
                self.call($crate::Call::unlock_status(keyspace, ticket))$($wait)*
            }

            /// How the server is doing, as JSON. It asks page by page; each page has the whole
            /// deadline.
            pub $($asyncness)? fn status(&self) -> Result<$crate::Answer<String>, $crate::Error> {
                let mut document = $crate::StatusPage::default();
                loop {
                    let after = document.next().unwrap_or(0);
                    let answer = self.call($crate::Call::status_page(after))$($wait)*?;
                    let answer = answer.map(|page| document.add(page));
                    // Pages that do not advance would make this loop endless.
                    if document.next().is_none_or(|next| next <= after) {
                        return Ok(answer.map(|()| document.into_text()));
                    }
                }
            }

            /// The same bytes back.
            pub $($asyncness)? fn ping(
                &self,
                payload: &[u8],
            ) -> Result<$crate::Answer<Vec<u8>>, $crate::Error> {
                self.call($crate::Call::ping(payload))$($wait)*
            }
        }
    };
}

pub(crate) use typed_calls;
