//! What stays, what goes, and what a restart finds.

use std::fs;

use goliath_agent::{
    config::ImageConfig,
    image::{ImageErrorKind, ImageSelector},
    spec::{ByteSize, GuestUid},
};
use goliath_lab::oci_image::{OciImage, Packing};
use tempfile::TempDir;

use crate::{QEMU_IMG, Store, list, open, parse, raw_disk};

fn layout(mib: usize) -> (TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let image = OciImage::container(&[("disk/guest.raw", &raw_disk(mib))], Packing::Gzip).unwrap();
    let reference = image.write_layout(directory.path(), "v1").unwrap();
    (directory, reference)
}

fn guest(n: u8) -> GuestUid {
    format!("00000000-0000-4000-8000-0000000000{n:02}").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leased_image_is_neither_removed_nor_collected() {
    let ((_first, one), (_second, two)) = (layout(2), layout(3));
    let store = Store::open(&[]);
    let (used, unused) = (store.pull(&one).await.unwrap(), store.pull(&two).await.unwrap());
    let leases = [guest(1), guest(1), guest(2)].map(|guest| store.store.lease(&used.digest, guest).unwrap());
    assert_eq!(store.store.used_by(&used.digest), [guest(1), guest(2)]);

    let selector = ImageSelector::Digest(used.digest.clone());
    let refused = store.store.remove(&selector).await.unwrap_err();
    assert_eq!(refused.kind(), ImageErrorKind::InUse);
    assert!(refused.to_string().contains(&guest(2).to_string()), "{refused}");

    fs::write(store.directory.path().join("partial").join("0".repeat(64)), [1; 8192]).unwrap();
    let planned = store.store.collect_garbage(true).await.unwrap();
    assert_eq!(planned.removed, std::slice::from_ref(&unused));
    assert!(planned.freed >= ByteSize::bytes(unused.stored.get() + 8192));
    assert_eq!(store.store.list().len(), 2, "a dry run removes nothing");
    assert_eq!(store.store.collect_garbage(false).await.unwrap(), planned);
    assert_eq!(store.store.list(), std::slice::from_ref(&used));
    assert!(used.disk.as_ref().unwrap().path.exists());
    assert!(!unused.disk.as_ref().unwrap().path.exists());
    assert!(store.partials().is_empty());

    let [first, second, third] = leases;
    drop((first, third));
    assert_eq!(store.store.used_by(&used.digest), [guest(1)], "a guest may hold several leases");
    drop(second);
    assert_eq!(store.store.remove(&selector).await.unwrap(), used.stored);
    assert!(store.store.lease(&used.digest, guest(1)).is_none());
    assert!(store.files().is_empty());
    assert_eq!(store.store.remove(&selector).await.unwrap_err().kind(), ImageErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_finds_the_images_and_removes_what_was_half_done() {
    let (_layout, reference) = layout(2);
    let directory = tempfile::tempdir().unwrap();
    let config = ImageConfig::default();
    let store = open(&config, directory.path());
    let image = store.pull(&parse(&reference)).finish().await.unwrap();
    let second = goliath_agent::image::ImageStore::open(&config, directory.path(), QEMU_IMG.as_ref()).unwrap_err();
    assert!(second.to_string().contains("in use by another process"), "{second}");
    drop(store);

    let half_done = directory.path().join("staging/made.1/0");
    fs::create_dir_all(&half_done).unwrap();
    fs::write(half_done.join("0"), [1; 100]).unwrap();
    let partial = directory.path().join("partial").join("1".repeat(64));
    fs::write(&partial, [1; 100]).unwrap();
    // Something that is no image is told, and left alone.
    fs::create_dir(directory.path().join("images/strange")).unwrap();

    let store = open(&config, directory.path());
    assert_eq!(store.list(), [image]);
    assert!(list(&directory.path().join("staging")).is_empty());
    assert!(partial.exists(), "a download can still be resumed");
    assert!(directory.path().join("images/strange").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moves_leaves_the_image_that_had_it() {
    let (directory, reference) = layout(2);
    let store = Store::open(&[]);
    let old = store.pull(&reference).await.unwrap();
    let image = OciImage::container(&[("disk/guest.raw", &raw_disk(3))], Packing::Gzip).unwrap();
    image.write_layout(directory.path(), "v1").unwrap();
    let new = store.pull(&reference).await.unwrap();
    assert_ne!(old.digest, new.digest);
    let named = |digest| store.store.find(&ImageSelector::Digest(digest)).unwrap().references.len();
    assert_eq!((named(old.digest.clone()), named(new.digest.clone())), (0, 1));
    let selected = store.store.find(&reference.parse().unwrap()).unwrap();
    assert_eq!(selected.digest, new.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_read_back_is_replaced_when_it_is_pulled_again() {
    let (_layout, reference) = layout(2);
    let directory = tempfile::tempdir().unwrap();
    let config = ImageConfig::default();
    let store = open(&config, directory.path());
    let image = store.pull(&parse(&reference)).finish().await.unwrap();
    drop(store);
    fs::remove_file(&image.disk.as_ref().unwrap().path).unwrap();
    let store = open(&config, directory.path());
    assert!(store.list().is_empty());
    let again = store.pull(&parse(&reference)).finish().await.unwrap();
    assert_eq!(again.disk, image.disk);
    assert!(again.disk.as_ref().unwrap().path.exists());
}
