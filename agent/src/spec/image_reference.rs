//! Which image: by a registry's name for it or in an OCI layout directory, and by digest once resolved.

use std::{fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Digest, InvalidValue};

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ImageSource {
    /// A registry speaking the OCI distribution protocol.
    Registry {
        /// Host and, where given, port.
        registry: String,
        /// The path below it.
        repository: String,
    },
    /// An OCI image layout on this machine.
    Layout {
        /// The directory that holds `oci-layout`; absolute.
        directory: PathBuf,
    },
}

/// A reference to an image as a spec gives it: `registry.example/repository:tag@sha256:…`, or
/// `oci-layout:/directory:tag@sha256:…`. Tag and digest may be left out; a digest, where given, decides.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageReference {
    source: ImageSource,
    tag: Option<String>,
    digest: Option<Digest>,
}

const LAYOUT: &str = "oci-layout:";

impl ImageReference {
    /// Where it comes from.
    pub fn source(&self) -> &ImageSource {
        &self.source
    }

    /// The tag as given; a registry is asked for `latest` where there is neither tag nor digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest (or of an index that has it), where the reference is pinned.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same, pinned to what it was resolved to.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }
}

impl FromStr for ImageReference {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(InvalidValue::new("must not be empty: name an image"));
        }
        match text.strip_prefix(LAYOUT) {
            Some(rest) => layout(rest),
            None => registry(text),
        }
    }
}

fn layout(text: &str) -> Result<ImageReference, InvalidValue> {
    let (text, digest) = match text.split_once('@') {
        Some((text, digest)) => (text, Some(digest.parse()?)),
        None => (text, None),
    };
    let (path, tag) = match text.rsplit_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (text, None),
    };
    let directory = PathBuf::from(path);
    if !directory.is_absolute() || directory.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(InvalidValue::new(format!("{path:?} must be an absolute path without `..` to an OCI layout")));
    }
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(InvalidValue::new(format!("{:?} is not a tag", tag.unwrap_or_default())));
    }
    Ok(ImageReference { source: ImageSource::Layout { directory }, tag: tag.map(str::to_owned), digest })
}

fn registry(text: &str) -> Result<ImageReference, InvalidValue> {
    // A reference without a registry would silently mean one company's: a machine of a platform names its own.
    let has_registry = text
        .split_once('/')
        .is_some_and(|(host, _)| host == "localhost" || host.contains(['.', ':']) || host.starts_with('['));
    if !has_registry {
        return Err(InvalidValue::new(format!(
            "{text:?} names no registry: write registry.example/repository:tag or oci-layout:/path"
        )));
    }
    let parsed: oci_client::Reference =
        text.parse().map_err(|reason| InvalidValue::new(format!("{text:?} is not an image reference: {reason}")))?;
    let digest: Option<Digest> = parsed.digest().map(str::parse).transpose()?;
    let tagged = text.split('@').next().unwrap_or_default().rsplit('/').next().is_some_and(|last| last.contains(':'));
    Ok(ImageReference {
        source: ImageSource::Registry {
            registry: parsed.registry().to_owned(),
            repository: parsed.repository().to_owned(),
        },
        tag: parsed.tag().filter(|_| tagged).map(str::to_owned),
        digest,
    })
}

/// OCI distribution: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
fn is_tag(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (1..=128).contains(&text.len()) && text.starts_with(word) && text.chars().all(|c| word(c) || c == '.' || c == '-')
}

impl TryFrom<String> for ImageReference {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ImageReference> for String {
    fn from(reference: ImageReference) -> Self {
        reference.to_string()
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            ImageSource::Registry { registry, repository } => write!(formatter, "{registry}/{repository}")?,
            ImageSource::Layout { directory } => write!(formatter, "{LAYOUT}{}", directory.display())?,
        }
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(formatter, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn a_reference_reads_back_as_it_was_written() {
        for text in [
            "registry.example/tiny".to_owned(),
            "registry.example:5000/team/tiny:v1".to_owned(),
            format!("127.0.0.1:5000/tiny@{DIGEST}"),
            format!("localhost/tiny:v1@{DIGEST}"),
            "oci-layout:/var/lib/images/tiny".to_owned(),
            "oci-layout:/var/lib/images/tiny:v1".to_owned(),
            format!("oci-layout:/images@{DIGEST}"),
        ] {
            assert_eq!(text.parse::<ImageReference>().map(|reference| reference.to_string()), Ok(text));
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for bad in [
            "",
            "tiny",
            "library/tiny",
            "registry.example/Tiny",
            "registry.example/tiny@sha256:12",
            "registry.example/tiny@md5:0123",
            "oci-layout:relative",
            "oci-layout:/a/../b",
            "oci-layout:/a:ta g",
        ] {
            assert!(bad.parse::<ImageReference>().is_err(), "{bad}");
        }
    }
}
