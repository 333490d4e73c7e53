//! The certificates that a guest needs.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    time::Duration,
};

use goliath_proto::agent::v1 as pb;
use goliath_server::violations::{Path, Violations};

use super::{
    bounded, seconds,
    texts::{dns_name_or_wildcard, filled_line, word},
};
use crate::{
    config::Config,
    spec::{CertificateName, CertificateRequest, InvalidValue, IssuerName},
};

const MOST_CERTIFICATES: usize = 32;
const MOST_NAMES: usize = 64;
/// X.520 ends common names and organisations here.
const LONGEST_NAME: usize = 64;
/// Below this a certificate is renewed all the time.
const SHORTEST_TTL: Duration = Duration::from_secs(10);
const LONGEST_TTL: Duration = Duration::from_hours(24 * 3650);

pub(super) fn read(
    violations: &mut Violations,
    at: &Path,
    requests: &[pb::CertificateRequest],
    config: &Config,
) -> Option<Vec<CertificateRequest>> {
    let mut names: HashMap<CertificateName, usize> = HashMap::new();
    let requests = bounded(violations, at, requests, MOST_CERTIFICATES);
    let mut found = Vec::new();
    for (index, request) in requests.iter().enumerate() {
        let at = at.index(index);
        let name = violations.parse::<CertificateName>(&at.field("name"), &request.name);
        if let Some(name) = &name
            && let Some(first) = names.insert(name.clone(), index)
        {
            violations.add(&at.field("name"), format!("is that of certificates[{first}] too"));
        }
        found.extend(one(violations, &at, request, name, config));
    }
    (found.len() == requests.len()).then_some(found)
}

fn one(
    violations: &mut Violations,
    at: &Path,
    request: &pb::CertificateRequest,
    name: Option<CertificateName>,
    config: &Config,
) -> Option<CertificateRequest> {
    let issuer_at = at.field("issuer");
    let issuer = violations.parse::<IssuerName>(&issuer_at, &request.issuer);
    violations.check(&issuer_at, issuer.as_ref().is_none_or(|issuer| config.issuers.contains_key(issuer)), || {
        let known: Vec<&str> = config.issuers.keys().map(IssuerName::as_str).collect();
        format!("{:?} is not an issuer of this host's configuration; it has: {}", request.issuer, known.join(", "))
    });
    let role = match request.role.as_str() {
        "" => name.as_ref().map(|name| name.as_str().to_owned()),
        // It becomes a part of a URL's path.
        role => violations.take(&at.field("role"), role_name(role)),
    };
    let common_name = violations.take(&at.field("common_name"), filled_line(&request.common_name, LONGEST_NAME));
    let dns_names = set(violations, &at.field("dns_names"), &request.dns_names, dns_name_or_wildcard);
    let ip_addresses = set(violations, &at.field("ip_addresses"), &request.ip_addresses, ip_address);
    let organizations =
        set(violations, &at.field("organizations"), &request.organizations, |text| filled_line(text, LONGEST_NAME));
    let ttl_at = at.field("ttl");
    let ttl = violations.required(&ttl_at, request.ttl.as_ref());
    let ttl = ttl.and_then(|ttl| violations.take(&ttl_at, seconds(ttl, SHORTEST_TTL, LONGEST_TTL)));
    Some(CertificateRequest {
        name: name?,
        issuer: issuer?,
        role: role?,
        common_name: common_name?,
        dns_names: dns_names?,
        ip_addresses: ip_addresses?,
        organizations: organizations?,
        ttl: ttl?,
    })
}

fn role_name(text: &str) -> Result<String, InvalidValue> {
    if text.chars().all(|c| c == '.') {
        return Err(InvalidValue::new("must not be all dots"));
    }
    word(text, 128, "-_.")
}

fn ip_address(text: &str) -> Result<IpAddr, InvalidValue> {
    text.parse().map_err(|_| InvalidValue::new(format!("{text:?} is not an IP address")))
}

/// Every entry read; the same twice is the same once.
fn set<T: Ord>(
    violations: &mut Violations,
    at: &Path,
    texts: &[String],
    read: impl Fn(&str) -> Result<T, InvalidValue>,
) -> Option<BTreeSet<T>> {
    let texts = bounded(violations, at, texts, MOST_NAMES);
    let mut found = BTreeSet::new();
    let mut complete = true;
    for (index, text) in texts.iter().enumerate() {
        match violations.take(&at.index(index), read(text)) {
            Some(value) => {
                found.insert(value);
            }
            None => complete = false,
        }
    }
    complete.then_some(found)
}
