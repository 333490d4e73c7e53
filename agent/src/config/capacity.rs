use serde::Deserialize;

/// How much of the machine guests may have.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CapacityConfig {
    /// Memory that stays with the host, in MiB.
    pub reserved_memory_mib: u64,
    /// What a QEMU needs beside its guest's memory at least, in MiB; where more was measured, that counts.
    pub guest_overhead_mib: u64,
    /// Disk that stays free, in MiB.
    pub reserved_disk_mib: u64,
    /// vCPUs for each of the machine's processors.
    pub vcpu_ratio: f64,
}

impl Default for CapacityConfig {
    fn default() -> Self {
        Self { reserved_memory_mib: 1024, guest_overhead_mib: 96, reserved_disk_mib: 4096, vcpu_ratio: 4.0 }
    }
}

impl super::Section for CapacityConfig {
    fn complaints(&self) -> Vec<(&'static str, String)> {
        if self.vcpu_ratio.is_finite() && self.vcpu_ratio > 0.0 && self.vcpu_ratio <= 1024.0 {
            Vec::new()
        } else {
            vec![("vcpu_ratio", format!("{} must be above 0 and at most 1024", self.vcpu_ratio))]
        }
    }
}
