//! What somebody changes by hand is put right.

use anyhow::{Result, ensure};

use super::host::{Pair, Plan, eventually};

/// Does something by hand in acme's namespace on the first host and waits until it is put right.
fn mends(pair: &Pair, by_hand: &str, right: impl Fn() -> Result<bool>) -> Result<()> {
    let (host, acme) = (&pair.hosts[0], &pair.acme);
    eventually("it is right to begin with", &right)?;
    let repairs = host.status(acme)?.repairs;
    host.run_in(acme, by_hand)?;
    eventually(&format!("`{by_hand}` is put right"), || Ok(right()? && host.status(acme)?.repairs > repairs))?;
    let status = host.status(acme)?;
    let told = status.conditions.get("Drift").map(|drift| (drift.reason, drift.message.clone()));
    ensure!(told.as_ref().is_some_and(|(reason, _)| *reason == "Repaired"), "the condition says {told:?}");
    ensure!(status.conditions.is_true("Ready"), "the network is not ready after `{by_hand}`");
    pair.a.reaches("10.7.0.12")
}

fn shows(pair: &Pair, line: &str, text: &str) -> Result<bool> {
    Ok(pair.hosts[0].run_in(&pair.acme, line)?.contains(text))
}

#[test]
fn a_deleted_bridge_comes_back_with_everything_on_it() -> Result<()> {
    let pair = Pair::new()?;
    mends(&pair, "ip link delete bridge", || shows(&pair, "ip link show", "bridge:"))?;
    pair.a.reaches("10.7.0.1")
}

#[test]
fn a_deleted_tunnel_or_gateway_comes_back() -> Result<()> {
    let pair = Pair::new()?;
    mends(&pair, "ip link delete vxlan", || shows(&pair, "bridge fdb show dev vxlan", "192.0.2.2"))?;
    mends(&pair, "ip link delete gateway", || shows(&pair, "ip -4 address show dev gateway", "10.7.0.1/32"))?;
    pair.a.reaches("10.7.0.1")
}

#[test]
fn a_device_that_was_set_otherwise_is_set_right() -> Result<()> {
    let pair = Pair::new()?;
    mends(&pair, "ip link set bridge down", || shows(&pair, "ip link show bridge", "UP,"))?;
    mends(&pair, "ip link set vxlan nomaster", || shows(&pair, "ip link show vxlan", "master bridge"))?;
    mends(&pair, "ip link set vxlan mtu 1300", || shows(&pair, "ip link show vxlan", "mtu 1450"))?;
    mends(&pair, "ip link set bridge address 06:00:00:00:00:99", || {
        Ok(!shows(&pair, "ip link show bridge", "06:00:00:00:00:99")?)
    })?;
    mends(&pair, "bridge link set dev vxlan learning on", || {
        shows(&pair, "bridge -d link show dev vxlan", "learning off")
    })?;
    let tap = pair.a.device.clone();
    mends(&pair, &format!("ip link set {tap} nomaster"), || {
        shows(&pair, &format!("ip link show {tap}"), "master bridge")
    })?;
    mends(&pair, &format!("ip link set {tap} down"), || shows(&pair, &format!("ip link show {tap}"), "UP,"))?;
    mends(&pair, "ip link set bridge alias nobodys", || shows(&pair, "ip link show bridge", "goliath:acme:bridge"))
}

#[test]
fn addresses_and_routes_come_back_and_strange_ones_go() -> Result<()> {
    let pair = Pair::of(Plan::new("acme", 7, "10.7.0.0/24")?.with_egress())?;
    let address = || shows(&pair, "ip -4 address show dev bridge", "10.7.0.250/24");
    mends(&pair, "ip address delete 10.7.0.250/24 dev bridge", address)?;
    mends(&pair, "ip address add 10.66.0.1/24 dev bridge", || {
        Ok(!shows(&pair, "ip -4 address show dev bridge", "10.66.0.1")?)
    })?;
    mends(&pair, "ip route delete default", || shows(&pair, "ip route show", "default via 169.254."))?;
    mends(&pair, "ip route add 203.0.113.0/24 dev bridge", || Ok(!shows(&pair, "ip route show", "203.0.113.0")?))
}

#[test]
fn forwarding_entries_and_neighbours_come_back_and_strange_ones_go() -> Result<()> {
    let pair = Pair::new()?;
    let mac = pair.b.port.mac;
    let fdb = |text: String| move |pair: &Pair| shows(pair, "bridge fdb show", &text);
    let tunnel = fdb(format!("{mac} dev vxlan dst 192.0.2.2"));
    mends(&pair, &format!("bridge fdb delete {mac} dev vxlan self"), || tunnel(&pair))?;
    let port = fdb(format!("{mac} dev vxlan master bridge static"));
    mends(&pair, &format!("bridge fdb delete {mac} dev vxlan master"), || port(&pair))?;
    let flood = fdb("00:00:00:00:00:00 dev vxlan dst 192.0.2.2".to_owned());
    mends(&pair, "bridge fdb delete 00:00:00:00:00:00 dev vxlan dst 192.0.2.2", || flood(&pair))?;
    let stranger = fdb("06:66:66:66:66:66".to_owned());
    mends(&pair, "bridge fdb add 06:66:66:66:66:66 dev vxlan dst 192.0.2.66", || Ok(!stranger(&pair)?))?;
    let gateway = fdb("02:00:00:00:00:01 dev bridge".to_owned());
    mends(&pair, "bridge fdb delete 02:00:00:00:00:01 dev bridge self", || gateway(&pair))?;
    let neighbour = format!("10.7.0.12 dev bridge lladdr {mac} PERMANENT");
    mends(&pair, "ip neigh delete 10.7.0.12 dev bridge", || shows(&pair, "ip neigh show", &neighbour))?;
    mends(&pair, "ip neigh replace 10.7.0.12 dev bridge lladdr 06:66:66:66:66:66 nud permanent", || {
        shows(&pair, "ip neigh show", &neighbour)
    })
}

#[test]
fn rules_come_back_whole() -> Result<()> {
    let pair = Pair::new()?;
    let spoofs = |pair: &Pair| pair.a.machine.succeeds("ping -c 1 -W 1 -I 10.7.0.66 10.7.0.12");
    pair.a.machine.run("ip address add 10.7.0.66/32 dev eth0")?;
    let guarded = || shows(&pair, "nft list chain bridge goliath guests", "drop");
    mends(&pair, "nft flush chain bridge goliath guests", guarded)?;
    mends(&pair, "nft delete table bridge goliath", guarded)?;
    mends(&pair, "nft insert rule bridge goliath guests accept comment strange", || {
        Ok(!shows(&pair, "nft list chain bridge goliath guests", "strange")?)
    })?;
    ensure!(!spoofs(&pair)?, "the guest can spoof after the repair");
    let element = format!("{} . {} . 10.7.0.66", pair.a.device, pair.a.port.mac);
    mends(&pair, &format!("nft add element bridge goliath ip_senders {{ {element} }}"), || {
        Ok(!shows(&pair, "nft list set bridge goliath ip_senders", "10.7.0.66")?)
    })?;
    mends(&pair, "nft flush set bridge goliath ip_senders", || {
        shows(&pair, "nft list set bridge goliath ip_senders", "10.7.0.11")
    })?;
    ensure!(!spoofs(&pair)?, "the guest can spoof after the repair");
    Ok(())
}

#[test]
fn a_table_of_somebody_else_is_left_alone_and_is_no_drift() -> Result<()> {
    let pair = Pair::new()?;
    let (host, acme) = (&pair.hosts[0], &pair.acme);
    host.run_in(acme, "nft add table inet theirs")?;
    host.run_in(acme, "ip link add theirs0 type bridge")?;
    // Something of ours is broken afterwards: once that is mended, the agent has looked at both.
    mends(&pair, "ip address delete 10.7.0.1/32 dev gateway", || {
        shows(&pair, "ip -4 address show dev gateway", "10.7.0.1/32")
    })?;
    ensure!(shows(&pair, "nft list tables", "table inet theirs")?, "somebody's table was removed");
    ensure!(shows(&pair, "ip link show", "theirs0")?, "somebody's device was removed");
    ensure!(host.status(acme)?.repairs == 1, "somebody's things were counted as drift");
    Ok(())
}

#[test]
fn a_namespace_that_was_unbound_gets_its_name_back_and_traffic_goes_on() -> Result<()> {
    let pair = Pair::new()?;
    let path = pair.hosts[0].namespace_of(&pair.acme);
    nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH)?;
    std::fs::remove_file(&path)?;
    pair.a.reaches("10.7.0.12")?;
    // What wakes the agent here is any change of the host's; without one, its timer.
    pair.hosts[0].machine.run("ip link add nudge type bridge")?;
    eventually("the namespace is bound again", || shows(&pair, "ip link show", "bridge:"))?;
    pair.a.reaches("10.7.0.12")
}

#[test]
fn the_way_out_comes_back() -> Result<()> {
    let pair = Pair::of(Plan::new("acme", 7, "10.7.0.0/24")?.with_egress())?;
    let host = &pair.hosts[0];
    let reaches = || pair.a.machine.succeeds("ping -c 1 -W 1 192.0.2.254");
    eventually("the world is reached", reaches)?;
    for by_hand in [
        "ip link delete goliath000007",
        "ip link set goliath000007 down",
        "ip address flush dev goliath000007",
        "sysctl -qw net.ipv4.conf.goliath000007.forwarding=0",
        "sysctl -qw net.ipv4.conf.eth0.forwarding=0",
        "nft delete table ip goliath",
        "nft flush chain ip goliath leaving",
    ] {
        let repairs = host.status(&pair.acme)?.repairs;
        host.machine.run(by_hand)?;
        eventually(&format!("`{by_hand}` is put right"), || {
            Ok(host.status(&pair.acme)?.repairs > repairs && reaches()?)
        })?;
    }
    Ok(())
}

#[test]
fn the_guests_own_ending_is_no_drift() -> Result<()> {
    let pair = Pair::new()?;
    let (host, acme) = (&pair.hosts[0], &pair.acme);
    let guest = host.guest(acme, 13)?;
    let uid = guest.port.uid;
    eventually("both are seen", || Ok(host.status(acme)?.ports == 2))?;
    // Its QEMU ends, and with it the tap; later its reconciler says so.
    drop(guest);
    eventually("one is seen", || Ok(host.status(acme)?.ports == 1))?;
    host.detach(acme, uid)?;
    ensure!(!shows(&pair, "nft list set bridge goliath ip_senders", "10.7.0.13")?, "the guest may still speak");
    ensure!(!shows(&pair, "ip neigh show", "10.7.0.13 dev bridge")?, "the guest is still a neighbour");
    ensure!(host.status(acme)?.repairs == 0, "an ordinary end was counted as drift");
    Ok(())
}
