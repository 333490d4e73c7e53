//! How images come: logins, mirrors, broken lines, several who want the same.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc, time::Duration};

use goliath_agent::{
    config::ImageConfig,
    image::{ImageErrorKind, PullPhase},
    spec::ByteSize,
};
use goliath_lab::{
    oci_image::{OciImage, Packing},
    registry::{PASSWORD, Registry, RegistryOptions, USER},
};
use tempfile::TempDir;

use crate::{Store, chain, list, noise, open, parse, proxy::Proxy, raw_disk};

const MIB: u64 = 1 << 20;

fn image_of(bytes: usize) -> OciImage {
    OciImage::container(&[("disk/guest.raw", &noise(bytes, 11))], Packing::Gzip).unwrap()
}

pub(crate) fn credentials(registry: &str, user: &str, password: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    let config = serde_json::json!({"auths": {registry: {"username": user, "password": password}}});
    fs::write(&path, config.to_string()).unwrap();
    (directory, path)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_a_password_opens_to_the_right_one_only() {
    let registry =
        Registry::start_with(&RegistryOptions { with_password: true, ..RegistryOptions::default() }).unwrap();
    let reference = registry.push("team/guest", "v1", &image_of(1000)).await.unwrap();
    let plain_http = vec![registry.address().to_owned()];
    for (user, password, expected) in [
        (USER, PASSWORD, Ok(())),
        (USER, "wrong", Err(ImageErrorKind::Unauthorized)),
        ("nobody", PASSWORD, Err(ImageErrorKind::Unauthorized)),
    ] {
        let (_directory, path) = credentials(registry.address(), user, password);
        let store = Store::open_with(&ImageConfig {
            plain_http: plain_http.clone(),
            credentials: Some(path),
            ..ImageConfig::default()
        });
        let outcome = store.pull(&reference).await;
        assert_eq!(outcome.as_ref().map(|_| ()).map_err(|error| error.kind()), expected);
        if let Err(error) = outcome {
            assert!(!chain(&error).contains(password), "{}", chain(&error));
        }
    }
    let anonymous = Store::open(&[registry.address()]);
    let (said, error) = anonymous.refusal(&reference).await;
    assert_eq!(error.kind(), ImageErrorKind::Unauthorized);
    assert!(said.contains("images.credentials") || said.contains("user and a password"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_unless_plain_http_is_allowed_by_name() {
    let authority = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = (directory.path().join("tls.crt"), directory.path().join("tls.key"));
    fs::write(&certificate, authority.cert.pem()).unwrap();
    fs::write(&key, authority.signing_key.serialize_pem()).unwrap();
    let tls = Registry::start_with(&RegistryOptions { tls: Some((&certificate, &key)), ..RegistryOptions::default() })
        .unwrap();
    let reference = tls.push("team/guest", "v1", &image_of(1000)).await.unwrap();

    let trusting =
        Store::open_with(&ImageConfig { certificate_authorities: Some(certificate), ..ImageConfig::default() });
    trusting.pull(&reference).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    let strict = Store::open(&[]);
    assert_eq!(strict.refusal(&reference).await.1.kind(), ImageErrorKind::Unavailable);

    let plain = Registry::start().unwrap();
    let reference = plain.push("team/guest", "v1", &image_of(1000)).await.unwrap();
    assert_eq!(strict.refusal(&reference).await.1.kind(), ImageErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_first_and_may_be_away_or_lack_the_image() {
    let (registry, mirror, empty) =
        (Registry::start().unwrap(), Registry::start().unwrap(), Registry::start().unwrap());
    let image = image_of(500_000);
    mirror.push("team/guest", "v1", &image).await.unwrap();
    let reference = registry.push("team/guest", "v1", &image).await.unwrap();
    let layer = image.layer(0).unwrap();
    let (to_registry, to_mirror) = (Proxy::to(registry.address()).await, Proxy::to(mirror.address()).await);
    let reference = reference.replace(registry.address(), &to_registry.address);
    // The port of a registry that has ended.
    let away = Registry::start().unwrap().address().to_owned();
    let with_mirrors = |mirrors: &[&str]| {
        Store::open_with(&ImageConfig {
            plain_http: [mirrors, &[to_registry.address.as_str()]].concat().iter().map(ToString::to_string).collect(),
            mirrors: BTreeMap::from([(to_registry.address.clone(), mirrors.iter().map(ToString::to_string).collect())]),
            ..ImageConfig::default()
        })
    };
    with_mirrors(&[&away, empty.address(), &to_mirror.address]).pull(&reference).await.unwrap();
    assert_eq!((to_mirror.requests_for(&layer).len(), to_registry.requests_for(&layer).len()), (1, 0));
    with_mirrors(&[&away, empty.address()]).pull(&reference).await.unwrap();
    assert_eq!(to_registry.requests_for(&layer).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_is_not_found() {
    let registry = Registry::start().unwrap();
    let store = Store::open(&[registry.address()]);
    for reference in ["team/none:v1", &format!("team/none@sha256:{}", "0".repeat(64))] {
        let (_, error) = store.refusal(&format!("{}/{reference}", registry.address())).await;
        assert_eq!(error.kind(), ImageErrorKind::NotFound);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_where_the_line_broke() {
    let registry = Registry::start().unwrap();
    let image = image_of(4 << 20);
    let layer = image.layer(0).unwrap();
    let reference = registry.push("team/guest", "v1", &image).await.unwrap();
    let proxy = Proxy::to(registry.address()).await;
    proxy.break_each_connection_after(MIB);
    let store = Store::open(&[&proxy.address]);
    let pulled = store.pull(&reference.replace(registry.address(), &proxy.address)).await;
    let pulled = pulled.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert!(fs::read(&pulled.disk.as_ref().unwrap().path).unwrap() == noise(4 << 20, 11));
    let requests = proxy.requests_for(&layer);
    assert!(requests.len() >= 4, "{requests:?}");
    assert!(requests[1..].iter().all(|request| request.to_lowercase().contains("range: bytes=")), "{requests:?}");
    assert!(proxy.delivered() < 5 * MIB, "{} bytes for an image of 4 MiB", proxy.delivered());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_after_the_agent_was_gone() {
    let registry = Registry::start().unwrap();
    let image = image_of(4 << 20);
    let reference = registry.push("team/guest", "v1", &image).await.unwrap();
    let (first, second) = (Proxy::to(registry.address()).await, Proxy::to(registry.address()).await);
    first.stall_after(3 * MIB);
    let config =
        ImageConfig { plain_http: vec![first.address.clone(), second.address.clone()], ..ImageConfig::default() };
    let directory = tempfile::tempdir().unwrap();
    let store = open(&config, directory.path());
    let pull = store.pull(&parse(&reference.replace(registry.address(), &first.address)));
    let mut progress = pull.progress();
    progress.wait_for(|progress| progress.downloaded >= ByteSize::mib(2)).await.unwrap();
    drop(pull);
    // The store is free when the work on it has ended.
    drop(store);
    let store = reopened(&config, directory.path()).await;
    assert!(list(&directory.path().join("staging")).is_empty());
    assert_eq!(list(&directory.path().join("partial")).len(), 1);
    let pull = store.pull(&parse(&reference.replace(registry.address(), &second.address)));
    let pulled = pull.finish().await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert!(fs::read(&pulled.disk.as_ref().unwrap().path).unwrap() == noise(4 << 20, 11));
    assert!(second.delivered() < 3 * MIB, "{} bytes after 2 MiB had come before", second.delivered());
    assert!(list(&directory.path().join("partial")).is_empty());
}

/// Opens a store as soon as the process's own earlier work on it has ended.
async fn reopened(config: &ImageConfig, directory: &std::path::Path) -> goliath_agent::image::ImageStore {
    for _ in 0..200 {
        let config = ImageConfig { max_disk_mib: 64, ..config.clone() };
        match goliath_agent::image::ImageStore::open(&config, directory, std::path::Path::new(crate::QEMU_IMG)) {
            Ok(store) => return store,
            Err(error) if error.kind() == ImageErrorKind::Misconfigured => {
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            Err(error) => panic!("{}", chain(&error)),
        }
    }
    panic!("the store is not let go of");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_partial_file_is_thrown_away_and_the_blob_comes_anew() {
    let registry = Registry::start().unwrap();
    let image = image_of(1 << 20);
    let layer = image.layer(0).unwrap();
    let reference = registry.push("team/guest", "v1", &image).await.unwrap();
    let store = Store::open(&[registry.address()]);
    let partial = store.directory.path().join("partial").join(layer.trim_start_matches("sha256:"));
    // As after a loss of power: the right length, and zeros.
    for length in [1000, image.blobs[&layer].len(), image.blobs[&layer].len() + 1000] {
        fs::write(&partial, vec![0; length]).unwrap();
        let pulled = store.pull(&reference).await.unwrap_or_else(|error| panic!("{length}: {}", chain(&error)));
        assert!(store.partials().is_empty());
        store.store.remove(&pulled.digest.to_string().parse().unwrap()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_who_want_one_image_make_one_download() {
    let registry = Registry::start().unwrap();
    let image = image_of(2 << 20);
    let reference = registry.push("team/guest", "v1", &image).await.unwrap();
    registry.push("team/guest", "v2", &image).await.unwrap();
    let proxy = Proxy::to(registry.address()).await;
    let by_tag = reference.replace(registry.address(), &proxy.address);
    let by_other_tag = by_tag.replace(":v1", ":v2");
    let by_digest = by_tag.replace(":v1", &format!("@{}", image.digest()));
    let store = Store::open(&[&proxy.address]);
    let pulls: Vec<_> = [&by_tag, &by_tag, &by_other_tag, &by_digest, &by_digest, &by_tag]
        .into_iter()
        .map(|reference| store.store.pull(&parse(reference)))
        .collect();
    let mut progress = pulls[3].progress();
    let mut images = Vec::new();
    for pull in pulls {
        images.push(pull.finish().await.unwrap_or_else(|error| panic!("{}", chain(&error))));
    }
    assert!(images.iter().all(|image| image.digest == images[0].digest));
    assert_eq!(proxy.requests_for(&image.layer(0).unwrap()).len(), 1);
    let end = *progress.borrow_and_update();
    assert_eq!((end.phase, Some(end.downloaded)), (PullPhase::Done, end.total));
    let listed = store.store.list();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].references.iter().collect::<Vec<_>>(), [&by_tag, &by_other_tag, &by_digest]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_leaves_does_not_end_the_download_of_another() {
    let registry = Registry::start().unwrap();
    let reference = registry.push("team/guest", "v1", &image_of(2 << 20)).await.unwrap();
    let proxy = Proxy::to(registry.address()).await;
    let reference = parse(&reference.replace(registry.address(), &proxy.address));
    proxy.stall_after(MIB);
    let store = Store::open(&[&proxy.address]);
    let (leaving, staying) = (store.store.pull(&reference), store.store.pull(&reference));
    proxy.until_delivered(MIB).await;
    drop(leaving);
    assert_eq!(staying.progress().borrow().phase, PullPhase::Downloading);
    drop(staying);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_image_that_is_here_needs_no_registry() {
    let registry = Registry::start().unwrap();
    let amd = OciImage::container(&[("disk/guest.raw", &raw_disk(2))], Packing::Gzip).unwrap();
    let index = OciImage::index(&[("linux/amd64", amd.clone())]).unwrap();
    let tag = registry.push("team/guest", "v1", &index).await.unwrap();
    let store = Store::open(&[registry.address()]);
    let pulled = store.pull(&tag).await.unwrap();
    drop(registry);
    for digest in [amd.digest(), index.digest()] {
        let found = store.pull(&tag.replace(":v1", &format!(":v1@{digest}"))).await.unwrap();
        assert_eq!(found.digest, pulled.digest, "by {digest}");
        assert_eq!(found.disk, pulled.disk);
    }
    let unpinned = store.pull(&tag).await.unwrap_err();
    assert_eq!(unpinned.kind(), ImageErrorKind::Unavailable);
    assert!(Arc::ptr_eq(&store.store.list()[0], &store.store.list()[0]));
}
