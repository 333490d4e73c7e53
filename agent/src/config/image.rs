use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;

/// Where images come from and what is refused.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageConfig {
    /// Refuse a guest whose image is not pinned by digest.
    pub require_digest: bool,
    /// Registries, as `host` or `host:port`, that may be spoken to without TLS.
    pub plain_http: Vec<String>,
    /// For a registry, the mirrors that are asked before it, in order.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Docker's `config.json` with the registries' credentials.
    pub credentials: Option<PathBuf>,
    /// The PEM file of certificate authorities to trust beside the system's.
    pub certificate_authorities: Option<PathBuf>,
    /// The most that one image's disk may take, in MiB: unpacked, and as its virtual size.
    pub max_disk_mib: u64,
}

impl Default for ImageConfig {
    fn default() -> Self {
        Self {
            require_digest: false,
            plain_http: Vec::new(),
            mirrors: BTreeMap::new(),
            credentials: None,
            certificate_authorities: None,
            max_disk_mib: 64 * 1024,
        }
    }
}

impl super::Section for ImageConfig {}
