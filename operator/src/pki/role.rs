//! Roles of a PKI mount: who may be named in a certificate, and what Vault writes into it.

use serde::{Deserialize, Deserializer, Serialize};

use crate::objects::{CertificateRole, CertificateUsage, DomainName};

/// Settings of a role, under Vault's names: what is written is compared with what is read. Whatever would open a role
/// further is among them, so that a change by hand is seen and undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "Vault's names")]
pub struct RoleSettings {
    allow_any_name: bool,
    allow_bare_domains: bool,
    allow_glob_domains: bool,
    allow_ip_sans: bool,
    allow_localhost: bool,
    allow_subdomains: bool,
    allow_token_displayname: bool,
    allow_wildcard_certificates: bool,
    #[serde(deserialize_with = "list")]
    allowed_domains: Vec<String>,
    allowed_domains_template: bool,
    #[serde(deserialize_with = "list")]
    allowed_other_sans: Vec<String>,
    #[serde(deserialize_with = "list")]
    allowed_serial_numbers: Vec<String>,
    #[serde(deserialize_with = "list")]
    allowed_uri_sans: Vec<String>,
    #[serde(deserialize_with = "list")]
    allowed_user_ids: Vec<String>,
    basic_constraints_valid_for_non_ca: bool,
    client_flag: bool,
    #[serde(deserialize_with = "list")]
    cn_validations: Vec<String>,
    code_signing_flag: bool,
    email_protection_flag: bool,
    enforce_hostnames: bool,
    generate_lease: bool,
    #[serde(deserialize_with = "list")]
    ext_key_usage: Vec<String>,
    #[serde(deserialize_with = "list")]
    ext_key_usage_oids: Vec<String>,
    issuer_ref: String,
    key_bits: u64,
    key_type: String,
    #[serde(deserialize_with = "list")]
    key_usage: Vec<String>,
    max_ttl: u64,
    no_store: bool,
    not_after: String,
    #[serde(deserialize_with = "list")]
    organization: Vec<String>,
    #[serde(deserialize_with = "list")]
    ou: Vec<String>,
    require_cn: bool,
    server_flag: bool,
    ttl: u64,
    use_csr_common_name: bool,
    use_csr_sans: bool,
}

impl RoleSettings {
    /// What a role of an authority with these domains allows.
    pub(super) fn new(role: &CertificateRole, domains: &[DomainName]) -> Self {
        let by_name = role.common_names.is_empty();
        let allowed_domains = if role.dns_names.is_empty() && by_name {
            domains.iter().flat_map(|domain| [domain.to_string(), format!("*.{domain}")]).collect()
        } else {
            role.dns_names.iter().map(ToString::to_string).collect()
        };
        Self {
            allowed_domains,
            allow_bare_domains: true,
            allow_glob_domains: true,
            allow_ip_sans: role.ip_addresses,
            // Roles know host names only: the policy looks at others, such as `system:node:worker-0`.
            cn_validations: vec![if by_name { "hostname" } else { "disabled" }.to_owned()],
            client_flag: matches!(role.usage, CertificateUsage::Client | CertificateUsage::Both),
            server_flag: matches!(role.usage, CertificateUsage::Server | CertificateUsage::Both),
            organization: role.organizations.iter().map(ToString::to_string).collect(),
            max_ttl: role.max_ttl.as_duration().as_secs(),
            ..Self::closed()
        }
    }

    /// Allows nothing yet. Keys are EC P-256, and the agent's; names come as parameters, where policies see them.
    fn closed() -> Self {
        Self {
            allow_any_name: false,
            allow_bare_domains: false,
            allow_glob_domains: false,
            allow_ip_sans: false,
            allow_localhost: false,
            allow_subdomains: false,
            allow_token_displayname: false,
            allow_wildcard_certificates: false,
            allowed_domains: Vec::new(),
            allowed_domains_template: false,
            allowed_other_sans: Vec::new(),
            allowed_serial_numbers: Vec::new(),
            allowed_uri_sans: Vec::new(),
            allowed_user_ids: Vec::new(),
            basic_constraints_valid_for_non_ca: false,
            client_flag: false,
            cn_validations: Vec::new(),
            code_signing_flag: false,
            email_protection_flag: false,
            enforce_hostnames: true,
            generate_lease: false,
            ext_key_usage: Vec::new(),
            ext_key_usage_oids: Vec::new(),
            issuer_ref: "default".to_owned(),
            key_bits: 256,
            key_type: "ec".to_owned(),
            key_usage: vec!["DigitalSignature".to_owned(), "KeyAgreement".to_owned()],
            max_ttl: 0,
            // A fleet renews hundreds of thousands of certificates a year, and nobody looks for one by its number.
            no_store: true,
            not_after: String::new(),
            organization: Vec::new(),
            ou: Vec::new(),
            require_cn: true,
            server_flag: false,
            ttl: 0,
            use_csr_common_name: false,
            use_csr_sans: false,
        }
    }
}

/// Vault writes null for some lists that are empty.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Option::<Vec<String>>::deserialize(deserializer).map(Option::unwrap_or_default)
}
