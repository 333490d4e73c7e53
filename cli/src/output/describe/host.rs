use goliath_proto::agent::v1::{Capacity, Host};

use super::Page;
use crate::{
    output::{View, host::accelerator, text::size},
    style::Tone,
};

/// All there is to know about the host.
pub(crate) fn host(host: &Host, view: &View) -> String {
    let (state, tone) = if host.cordoned { ("cordoned", Tone::Warn) } else { ("open", Tone::Good) };
    let mut page = Page::new(view, &host.name, state, tone);
    page.text.push('\n');
    let versions = host.versions.clone().unwrap_or_default();
    page.fact("agent", &versions.agent);
    page.fact("QEMU", &versions.qemu);
    page.fact("kernel", &versions.kernel);
    page.fact("boot id", &host.boot_id);
    page.fact("underlay", &host.underlay_address);
    page.fact("accelerator", accelerator(host.accelerator()));
    page.fact("guests", &host.guests.to_string());
    let capacity = host.capacity.unwrap_or_default();
    let free = host.available.unwrap_or_default();
    page.heading("Room for guests");
    let mut fact = |name: &str, amount: fn(&Capacity) -> String| {
        page.fact(name, &format!("{} free of {}", amount(&free), amount(&capacity)));
    };
    fact("vCPUs", |capacity| capacity.vcpus.to_string());
    fact("memory", |capacity| size(capacity.memory_bytes));
    fact("disk", |capacity| size(capacity.disk_bytes));
    page.conditions(&host.conditions);
    if host.cordoned {
        page.advice(&["it accepts no new guests until: goliath uncordon".to_owned()]);
    }
    page.text
}
