//! How much memory a pull takes.

use std::{fs, path::Path};

use goliath_lab::{
    large_image::{self, Content},
    measured_pull,
    oci_image::Packing,
    registry::Registry,
};

const MIB: u64 = 1 << 20;
/// Far below what the layers differ by, packed (90 MiB) or not (960 MiB).
const TOLERANCE: u64 = 32 * MIB;

#[test]
fn a_pull_takes_as_much_memory_for_a_layer_of_a_gibibyte_as_for_a_small_one() {
    let directory = tempfile::Builder::new().prefix("goliath-images.").tempdir().unwrap();
    let registry = Registry::start().unwrap();
    for packing in [Packing::Gzip, Packing::Zstd] {
        let peak_memory = |size, content| peak_memory(size, content, packing, &registry, directory.path());
        // Packed it is 36 MiB: more than all buffers on the way hold.
        let small = peak_memory(64 * MIB, Content::SYSTEM);
        let large = peak_memory(1024 * MIB, Content::SPARSE);
        println!("{packing:?}: {} KiB for 64 MiB, {} KiB for 1 GiB", small / 1024, large / 1024);
        assert!(large < small + TOLERANCE, "{packing:?}: {large} bytes for 1 GiB, {small} for 64 MiB");
    }
}

fn peak_memory(size: u64, content: Content, packing: Packing, registry: &Registry, directory: &Path) -> u64 {
    let (name, layout) = (format!("{packing:?}-{size}").to_lowercase(), directory.join("layout"));
    large_image::write_layout(&layout, "v1", size, content, packing).unwrap();
    let reference = registry.push_layout(&name, "v1", &layout).unwrap();
    fs::remove_dir_all(&layout).unwrap();
    measured_pull::pull(&reference, registry, directory).unwrap().peak_memory
}
