//! Checked texts: each its own type, so that a host's name cannot stand where a cluster's is meant. What `parse` takes
//! and what the schema's pattern says is the same; a property test holds them together.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A value that its type does not allow; the text says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(String);

impl InvalidValue {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// Declares a type for a text that was checked: `parse`, `as_str`, `Display`, serde by way of the check, and a schema.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident { longest: $longest:expr, pattern: $pattern:expr, check: $check:expr, is: $is:expr }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The most bytes it may have.
            pub const LONGEST: usize = $longest;
            /// What the schema says, in the syntax of RE2.
            pub const PATTERN: &'static str = $pattern;

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidValue;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let check: fn(&str) -> bool = $check;
                if text.is_empty() {
                    return Err(InvalidValue::new(concat!("must not be empty: it must be ", $is)));
                }
                if text.len() > Self::LONGEST {
                    let length = text.len();
                    return Err(InvalidValue::new(format!("has {length} bytes: at most {} are allowed", Self::LONGEST)));
                }
                if !check(text) {
                    return Err(InvalidValue::new(format!(concat!("{:?} is not ", $is), text)));
                }
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidValue;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> Self {
                text.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, formatter)
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "minLength": 1,
                    "maxLength": $longest,
                    "pattern": $pattern,
                })
            }
        }
    };
}

const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
const SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

checked_text!(
    /// A guest cluster's name. Names of what it owns are built from it, so it is shorter than a DNS label may be.
    ClusterName {
        longest: 40,
        pattern: LABEL,
        check: is_label,
        is: "a DNS label (lower-case letters, digits and `-`, with a letter or digit at both ends)"
    }
);
checked_text!(
    /// A DNS label (RFC 1123): the name of a pool, of a guest within its cluster, of a component.
    DnsLabel {
        longest: 63,
        pattern: LABEL,
        check: is_label,
        is: "a DNS label (lower-case letters, digits and `-`, with a letter or digit at both ends)"
    }
);
checked_text!(
    /// The name of an object: DNS labels joined by dots.
    ObjectName {
        longest: 253,
        pattern: SUBDOMAIN,
        check: is_subdomain,
        is: "a name (lower-case letters, digits, `-` and `.`, with a letter or digit at both ends of each part)"
    }
);
checked_text!(
    /// The name of a host object.
    HostName {
        longest: 253,
        pattern: SUBDOMAIN,
        check: is_subdomain,
        is: "a host's name (lower-case letters, digits, `-` and `.`, with a letter or digit at both ends of each part)"
    }
);
checked_text!(
    /// Where hosts fail together: a rack, a room, a data centre.
    ZoneName {
        longest: 63,
        pattern: SUBDOMAIN,
        check: is_subdomain,
        is: "a zone's name (lower-case letters, digits, `-` and `.`)"
    }
);
checked_text!(
    /// What a host is for; pools ask for it.
    HostRole {
        longest: 63,
        pattern: LABEL,
        check: is_label,
        is: "a role (a DNS label: lower-case letters, digits and `-`)"
    }
);
checked_text!(
    /// An issuer of the hosts' configuration.
    IssuerName {
        longest: 63,
        pattern: LABEL,
        check: is_label,
        is: "an issuer's name (a DNS label: lower-case letters, digits and `-`)"
    }
);
checked_text!(
    /// A domain, such as `cluster.local`.
    DomainName {
        longest: 253,
        pattern: SUBDOMAIN,
        check: is_subdomain,
        is: "a domain (lower-case DNS labels joined by dots)"
    }
);
checked_text!(
    /// A DNS name of a certificate; the first label may be `*`.
    CertificateDnsName {
        longest: 253,
        pattern: r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
        check: |text| is_subdomain(text.strip_prefix("*.").unwrap_or(text)),
        is: "a DNS name (lower-case DNS labels joined by dots, `*.` may stand in front)"
    }
);
checked_text!(
    /// A common name or an organisation of a certificate's subject; X.520 allows 64 characters.
    SubjectName {
        longest: 64,
        pattern: r"^\P{Cc}+$",
        check: is_line,
        is: "a subject's name (printable characters)"
    }
);
checked_text!(
    /// Names of certificates: `*` at the beginning or the end stands for any text. It needs no quoting in a policy of an
    /// issuer.
    NamePattern {
        longest: 253,
        pattern: r"^\*?[A-Za-z0-9._:-]+\*?$",
        check: is_name_pattern,
        is: "a pattern of names (letters, digits and `-_.:`, `*` may stand at the beginning and the end)"
    }
);
checked_text!(
    /// By this a guest finds a data disk: `/dev/disk/by-id/virtio-<serial>`. virtio-blk carries 20 bytes.
    DiskSerial {
        longest: 20,
        pattern: "^[A-Za-z0-9_-]+$",
        check: |text| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)),
        is: "a disk's serial (letters, digits, `-` and `_`)"
    }
);
checked_text!(
    /// A processor model that QEMU knows, and features as its `-cpu` takes them.
    CpuModel {
        longest: 256,
        pattern: "^[A-Za-z0-9_.,+=-]+$",
        check: |text| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.,+=-".contains(&byte)),
        is: "a processor model (letters, digits and `-_.,+=`)"
    }
);
checked_text!(
    /// An image reference: `registry.example/repository:tag@sha256:…`, or `oci-layout:/path[:tag][@sha256:…]`. The agent
    /// has the last word on its parts.
    ImageReference {
        longest: 512,
        pattern: r"^(oci-layout:/[!-~]+|[a-z0-9][A-Za-z0-9.:_/@-]*)$",
        check: is_image,
        is: "an image reference such as registry.example/repository:tag or oci-layout:/directory:tag"
    }
);
checked_text!(
    /// Appended to a kernel's command line.
    CommandLine {
        longest: 1536,
        pattern: r"^\P{Cc}+$",
        check: is_line,
        is: "a kernel command line (one line of printable characters)"
    }
);
checked_text!(
    /// An absolute path on a host.
    HostPath {
        longest: 1024,
        pattern: r"^/\P{Cc}+$",
        check: |text| text.strip_prefix('/').is_some_and(|rest| !rest.is_empty() && is_line(rest)),
        is: "an absolute path"
    }
);
checked_text!(
    /// A version of Kubernetes.
    KubernetesVersion {
        longest: 32,
        pattern: r"^v?[0-9]+\.[0-9]+\.[0-9]+$",
        check: is_version,
        is: "a version of Kubernetes such as 1.35.4"
    }
);
checked_text!(
    /// An `https` URL.
    HttpsUrl {
        longest: 1024,
        pattern: r"^https://[!-~]+$",
        check: |text| text.strip_prefix("https://").is_some_and(is_graphic),
        is: "a URL that begins with https://"
    }
);
checked_text!(
    /// A path of a URL, such as `/healthz`.
    UrlPath {
        longest: 256,
        pattern: r"^/[!-~]*$",
        check: |text| text.strip_prefix('/').is_some_and(|rest| rest.is_empty() || is_graphic(rest)),
        is: "a path of a URL such as /healthz"
    }
);
checked_text!(
    /// A word without spaces: a version, a claim of a token.
    Word {
        longest: 128,
        pattern: "^[!-~]+$",
        check: is_graphic,
        is: "a word of printable ASCII characters"
    }
);
checked_text!(
    /// The name of a template among the operator's own.
    TemplateName {
        longest: 128,
        pattern: "^[a-z0-9][a-z0-9._-]*$",
        check: is_template,
        is: "a template's name such as worker.cloud-config"
    }
);
checked_text!(
    /// A digest as OCI writes it.
    Digest {
        longest: 71,
        pattern: "^sha256:[0-9a-f]{64}$",
        check: |text| text.strip_prefix("sha256:").is_some_and(|hex| {
            hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        }),
        is: "a digest such as sha256:… with 64 hex digits"
    }
);

fn is_label(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(allowed) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn is_name_pattern(text: &str) -> bool {
    let text = text.strip_prefix('*').unwrap_or(text);
    let text = text.strip_suffix('*').unwrap_or(text);
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte))
}

/// `\P{Cc}+`: anything but control characters.
fn is_line(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

fn is_graphic(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_image(text: &str) -> bool {
    match text.strip_prefix("oci-layout:/") {
        Some(rest) if is_graphic(rest) => true,
        _ => {
            text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:_/@-".contains(&byte))
        }
    }
}

fn is_version(text: &str) -> bool {
    let numbers: Vec<_> = text.strip_prefix('v').unwrap_or(text).split('.').collect();
    numbers.len() == 3
        && numbers.iter().all(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_template(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    macro_rules! agrees_with_its_pattern {
        ($($test:ident: $type:ty),* $(,)?) => {
            proptest! {
                $(#[test]
                fn $test(
                    matching in proptest::string::string_regex(<$type>::PATTERN.trim_matches(['^', '$'])).unwrap(),
                    any in "[a-z0-9A-Z.:/@*_ -]{0,80}|\\PC*|.{0,6}",
                ) {
                    let pattern = Regex::new(<$type>::PATTERN).unwrap();
                    for text in [matching, any] {
                        let allowed = !text.is_empty() && text.len() <= <$type>::LONGEST && pattern.is_match(&text);
                        let parsed = text.parse::<$type>();
                        prop_assert_eq!(parsed.is_ok(), allowed, "{:?}: {:?}", text, parsed);
                        if let Ok(parsed) = parsed {
                            prop_assert_eq!(parsed.as_str(), text);
                        }
                    }
                })*
            }
        };
    }

    agrees_with_its_pattern! {
        cluster_names: ClusterName,
        labels: DnsLabel,
        object_names: ObjectName,
        certificate_dns_names: CertificateDnsName,
        subject_names: SubjectName,
        name_patterns: NamePattern,
        serials: DiskSerial,
        cpu_models: CpuModel,
        images: ImageReference,
        paths: HostPath,
        versions: KubernetesVersion,
        urls: HttpsUrl,
        url_paths: UrlPath,
        templates: TemplateName,
        digests: Digest,
    }

    #[test]
    fn a_refusal_says_what_is_allowed() {
        let refusal = "acme.prod".parse::<ClusterName>().unwrap_err().to_string();
        assert_eq!(
            refusal,
            "\"acme.prod\" is not a DNS label (lower-case letters, digits and `-`, with a letter or digit at both ends)"
        );
        assert_eq!(
            "x".repeat(41).parse::<ClusterName>().unwrap_err().to_string(),
            "has 41 bytes: at most 40 are allowed"
        );
    }
}
