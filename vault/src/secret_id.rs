//! The AppRole's secret id: delivered wrapped, unwrapped once, kept in memory only.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tracing::{error, info, warn};
use vaultrs::sys::wrapping;
use zeroize::Zeroizing;

use crate::{
    connection::{Connection, Stamp, stamp},
    error::{CallError, VaultError},
    memory::{NotInMemory, require_memory},
};

/// Why a secret id has no place.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// It would be on a disk.
    #[error("a secret id needs a place in memory")]
    NotInMemory(#[source] NotInMemory),
    /// The place cannot be made.
    #[error("{} cannot be made", .directory.display())]
    Directory {
        /// Where.
        directory: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Where the secret id comes from and where it is kept.
pub struct SecretId {
    wrapping_file: PathBuf,
    /// In memory, root's alone: a program that restarts logs in again.
    kept_file: PathBuf,
    auth_mount: String,
    /// A wrapping token that cannot be used, told once.
    rejected: Option<(String, VaultError)>,
}

/// A secret id, and of which wrapping token it came.
struct Kept {
    wrapping_digest: String,
    secret_id: Zeroizing<String>,
}

#[derive(Deserialize)]
struct Wrapped {
    secret_id: Zeroizing<String>,
}

impl SecretId {
    /// Makes the place where it is kept, a directory of its own on a tmpfs, or says why there is none.
    pub fn new(
        auth_mount: &str,
        wrapping_file: &Path,
        runtime_directory: &Path,
        name: &str,
    ) -> Result<Self, PlaceError> {
        require_memory(runtime_directory).map_err(PlaceError::NotInMemory)?;
        let directory = runtime_directory.join("vault").join(name);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .and_then(|()| fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)))
            .map_err(|source| PlaceError::Directory { directory: directory.clone(), source })?;
        Ok(Self {
            wrapping_file: wrapping_file.to_owned(),
            kept_file: directory.join("secret-id"),
            auth_mount: auth_mount.to_owned(),
            rejected: None,
        })
    }

    /// The file of a wrapping token that lies there.
    pub(crate) fn delivered(&self) -> Stamp {
        stamp(&self.wrapping_file)
    }

    /// The secret id to log in with.
    pub(crate) async fn obtain(&mut self, connection: &Connection) -> Result<Zeroizing<String>, VaultError> {
        let kept = self.kept();
        let Some(token) = self.wrapping_token()? else {
            return kept.map(|kept| kept.secret_id).ok_or_else(|| VaultError::Login {
                address: connection.address().to_owned(),
                detail: format!(
                    "there is no secret id: put a wrapping token for one into {}",
                    self.wrapping_file.display()
                ),
            });
        };
        let token_digest = digest(&token);
        if let Some(kept) = kept.as_ref().filter(|kept| kept.wrapping_digest == token_digest) {
            // A former process unwrapped it and came no further.
            self.remove_wrapping_file();
            return Ok(kept.secret_id.clone());
        }
        if !self.is_rejected(&token_digest) {
            match self.unwrap(connection, &token).await {
                Ok(secret_id) => {
                    self.keep(&token_digest, &secret_id)?;
                    self.remove_wrapping_file();
                    info!(file = %self.wrapping_file.display(), "a secret id was unwrapped and is kept in memory");
                    return Ok(secret_id);
                }
                Err(reason @ (VaultError::WrappingTokenSpent { .. } | VaultError::WrappingTokenForged { .. })) => {
                    error!(reason = reason.reason(), "{reason}");
                    self.rejected = Some((token_digest, reason));
                }
                Err(reason) => return Err(reason),
            }
        }
        // The one from before still serves, and nothing that runs waits for people.
        match (kept, &self.rejected) {
            (Some(kept), _) => Ok(kept.secret_id),
            (None, Some((_, reason))) => Err(reason.clone()),
            (None, None) => Err(VaultError::WrappingTokenSpent { file: self.wrapping_file.clone() }),
        }
    }

    /// Looks at what made the wrapping token before it is used up, as Vault's documentation advises.
    async fn unwrap(&self, connection: &Connection, token: &str) -> Result<Zeroizing<String>, VaultError> {
        let file = || self.wrapping_file.clone();
        let spent = |error| match error {
            CallError::Refused { code: 400 | 403 | 404, .. } => VaultError::WrappingTokenSpent { file: file() },
            CallError::Refused { code, errors } => VaultError::Unexpected {
                path: "sys/wrapping".to_owned(),
                detail: format!("status {code}: {}", errors.join("; ")),
            },
            CallError::Vault(error) => error,
        };
        let client = connection.client(None)?;
        let made = connection.within(wrapping::lookup(client.vault(), token)).await.map_err(spent)?;
        if !is_secret_id_path(&made.creation_path, &self.auth_mount) {
            return Err(VaultError::WrappingTokenForged { file: file(), creation_path: made.creation_path });
        }
        let client = connection.client(Some(token))?;
        let wrapped: Wrapped = connection.within(wrapping::unwrap(client.vault(), None)).await.map_err(spent)?;
        Ok(wrapped.secret_id)
    }

    fn is_rejected(&self, token_digest: &str) -> bool {
        self.rejected.as_ref().is_some_and(|(rejected, _)| rejected == token_digest)
    }

    fn wrapping_token(&self) -> Result<Option<Zeroizing<String>>, VaultError> {
        read_token(&self.wrapping_file)
    }

    fn kept(&self) -> Option<Kept> {
        let content = Zeroizing::new(fs::read_to_string(&self.kept_file).ok()?);
        let (wrapping_digest, secret_id) = content.split_once('\n')?;
        Some(Kept { wrapping_digest: wrapping_digest.to_owned(), secret_id: Zeroizing::new(secret_id.to_owned()) })
    }

    fn keep(&self, wrapping_digest: &str, secret_id: &str) -> Result<(), VaultError> {
        let content = Zeroizing::new(format!("{wrapping_digest}\n{secret_id}"));
        write_in_memory(&self.kept_file, content.as_bytes()).map_err(|reason| VaultError::Misconfigured {
            file: self.kept_file.clone(),
            detail: format!("the secret id cannot be kept: {reason}; deliver a new one once it can"),
        })
    }

    fn remove_wrapping_file(&self) {
        // It is of no use to anybody by now.
        if let Err(reason) = fs::remove_file(&self.wrapping_file)
            && reason.kind() != io::ErrorKind::NotFound
        {
            warn!(file = %self.wrapping_file.display(), %reason, "the spent wrapping token's file cannot be removed");
        }
    }
}

/// Whole or not at all; nothing is synced, for memory does not outlive the machine.
fn write_in_memory(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("writing");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    fs::rename(&temporary, path)
}

/// A file's token; none when there is no file.
pub(crate) fn read_token(file: &Path) -> Result<Option<Zeroizing<String>>, VaultError> {
    let misconfigured = |detail: String| VaultError::Misconfigured { file: file.to_owned(), detail };
    let content = match fs::read_to_string(file) {
        Ok(content) => Zeroizing::new(content),
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(reason) => return Err(misconfigured(format!("cannot be read: {reason}"))),
    };
    let token = content.trim();
    if token.is_empty() || token.len() > 4096 || !token.chars().all(|character| character.is_ascii_graphic()) {
        return Err(misconfigured("does not hold a token of Vault and nothing else".to_owned()));
    }
    Ok(Some(Zeroizing::new(token.to_owned())))
}

fn is_secret_id_path(path: &str, auth_mount: &str) -> bool {
    path.strip_prefix("auth/")
        .and_then(|rest| rest.strip_prefix(auth_mount)?.strip_prefix("/role/")?.strip_suffix("/secret-id"))
        .is_some_and(|role| !role.is_empty() && !role.contains('/'))
}

/// Names a token without telling it.
fn digest(token: &str) -> String {
    use std::fmt::Write as _;
    Sha256::digest(token).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_secret_id_of_the_mount_is_unwrapped() {
        assert!(is_secret_id_path("auth/approle/role/host-1/secret-id", "approle"));
        for other in [
            "auth/token/create",
            "auth/other/role/host-1/secret-id",
            "auth/approle/role/host-1/custom-secret-id",
            "auth/approle/role/a/b/secret-id",
            "auth/approle/role//secret-id",
            "secret/data/x",
        ] {
            assert!(!is_secret_id_path(other, "approle"), "{other}");
        }
    }

    #[test]
    fn a_file_with_anything_but_a_token_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        assert!(read_token(&file).unwrap().is_none());
        fs::write(&file, "hvs.abc\n").unwrap();
        assert_eq!(read_token(&file).unwrap().unwrap().as_str(), "hvs.abc");
        for bad in ["", "\n", "two words", "tök", "a\nb"] {
            fs::write(&file, bad).unwrap();
            assert_eq!(read_token(&file).unwrap_err().reason(), "IssuerMisconfigured", "{bad:?}");
        }
    }
}
