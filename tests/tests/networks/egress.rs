//! The way out, and where it does not lead.

use anyhow::{Result, ensure};

use super::host::{Pair, Plan, two_hosts};

fn with_egress(cluster: &str, vni: u32) -> Result<Plan> {
    Ok(Plan::new(cluster, vni, "10.7.0.0/24")?.with_egress())
}

/// The switch stands for the world: it is the hosts' way out, and knows no cluster.
const WORLD: &str = "192.0.2.254";

#[test]
fn guests_reach_the_world_as_their_host() -> Result<()> {
    let pair = Pair::of(with_egress("acme", 7)?)?;
    pair.underlay.switch().nft(
        "table ip lab { chain in { type filter hook input priority 0; ip saddr != 192.0.2.0/24 counter drop; }; }",
    )?;
    pair.a.reaches(WORLD)?;
    pair.b.reaches(WORLD)?;
    pair.a.reaches("10.7.0.12")
}

#[test]
fn without_egress_there_is_no_way_out() -> Result<()> {
    let pair = Pair::new()?;
    pair.a.does_not_reach(WORLD)?;
    ensure!(!pair.hosts[0].machine.run("ip link show")?.contains("goliath"), "a device for egress was made");
    ensure!(!pair.hosts[0].machine.run("nft list tables")?.contains("goliath"), "rules for egress were loaded");
    Ok(())
}

#[test]
fn two_clusters_with_one_cidr_have_egress_each_and_no_way_to_the_other() -> Result<()> {
    let pair = Pair::of(with_egress("acme", 7)?)?;
    let zeta = with_egress("zeta", 8)?;
    pair.hosts[0].apply(&zeta, &[])?;
    let other = pair.hosts[0].guest(&zeta, 13)?;
    pair.a.reaches(WORLD)?;
    other.reaches(WORLD)?;
    pair.a.does_not_reach("10.7.0.13")?;
    // Nor by the clusters' ends of the ways out.
    let ends: Vec<String> = pair.hosts[0]
        .machine
        .run("ip -4 -o address show")?
        .split_whitespace()
        .filter(|word| word.starts_with("169.254."))
        .map(|word| word.trim_end_matches("/31").to_owned())
        .collect();
    ensure!(ends.len() == 2, "the hosts' ends are {ends:?}");
    for end in ends {
        pair.a.does_not_reach(&end)?;
        let number: std::net::Ipv4Addr = end.parse()?;
        let cluster_end = std::net::Ipv4Addr::from(u32::from(number) + 1).to_string();
        pair.a.does_not_reach(&cluster_end)?;
        other.does_not_reach(&cluster_end)?;
    }
    // Even with routes of its own making in the one cluster's namespace, the host lets nothing through to the other.
    let zeta_end = pair.hosts[0].run_in(&zeta, "ip -4 -o address show dev egress")?;
    let zeta_end = zeta_end.split_whitespace().find(|word| word.starts_with("169.254.")).unwrap_or_default();
    let zeta_end = zeta_end.trim_end_matches("/31");
    let direct = pair.hosts[0].run_in(&pair.acme, &format!("ping -c 2 -i 0.05 -W 1 {zeta_end}"));
    ensure!(direct.is_err(), "one cluster's namespace reached the other's by the host");
    Ok(())
}

#[test]
fn a_guest_cannot_speak_vxlan_to_the_hosts() -> Result<()> {
    let pair = Pair::of(with_egress("acme", 7)?)?;
    let count =
        "table inet lab { chain in { type filter hook input priority -10; udp dport { 4789, 4790 } counter; }; }";
    let counted = || -> Result<u64> {
        let listed = pair.hosts[1].machine.run("nft -j list table inet lab")?;
        let listed: serde_json::Value = serde_json::from_str(&listed)?;
        let packets = listed["nftables"].as_array().and_then(|objects| {
            objects.iter().find_map(|object| {
                object["rule"]["expr"].as_array()?.iter().find_map(|part| part["counter"]["packets"].as_u64())
            })
        });
        packets.ok_or_else(|| anyhow::anyhow!("there is no counter"))
    };
    pair.hosts[1].machine.nft(count)?;
    let send = |port: u16| {
        pair.a.machine.inside(move || {
            let socket = std::net::UdpSocket::bind("10.7.0.11:0")?;
            // What answers is of no interest.
            for _ in 0..3 {
                let _ = socket.send_to(&[0x08, 0, 0, 0, 0, 0, 8, 0], ("192.0.2.2", port));
            }
            Ok(())
        })
    };
    send(4790)?;
    super::host::eventually("another port's packets arrive", || Ok(counted()? == 3))?;
    send(4789)?;
    pair.a.reaches("192.0.2.2")?;
    ensure!(counted()? == 3, "a guest's VXLAN packets reached a VTEP");
    Ok(())
}

#[test]
fn a_guest_does_not_reach_its_hosts_services() -> Result<()> {
    let pair = Pair::of(with_egress("acme", 7)?)?;
    let listener = pair.hosts[0].machine.inside(|| Ok(std::net::TcpListener::bind("192.0.2.1:8080")?))?;
    let connect = || {
        pair.a.machine.inside(|| {
            let limit = std::time::Duration::from_millis(500);
            Ok(std::net::TcpStream::connect_timeout(&"192.0.2.1:8080".parse()?, limit).is_ok())
        })
    };
    ensure!(!connect()?, "a guest connected to its host");
    drop(listener);
    Ok(())
}

#[test]
fn forwarding_is_turned_on_only_where_needed_and_only_for_clusters() -> Result<()> {
    let (hosts, underlay) = two_hosts()?;
    let [host, other] = &hosts;
    let acme = with_egress("acme", 7)?;
    host.machine.run("sysctl -qw net.ipv4.conf.all.forwarding=0")?;
    host.apply(&acme, &[])?;
    let forwarding = |device: &str| host.machine.run(&format!("sysctl -n net.ipv4.conf.{device}.forwarding"));
    ensure!(forwarding("all")?.trim() == "0", "the host forwards everything");
    ensure!(forwarding("eth0")?.trim() == "1", "answers cannot come back");

    // Another machine takes the host for a router to a third: it gets nothing through.
    let switch = underlay.switch();
    goliath_lab::namespace::connect((&host.machine, "lab0"), (switch, "lab0"))?;
    host.machine.run("ip address add 198.51.100.1/24 dev lab0")?;
    switch.run("ip address add 198.51.100.2/24 dev lab0")?;
    other.machine.run("ip route add 198.51.100.0/24 via 192.0.2.1")?;
    switch.run("ip route add 192.0.2.2 via 198.51.100.1")?;
    ensure!(!other.machine.succeeds("ping -c 2 -i 0.05 -W 1 198.51.100.2")?, "the host routes for strangers");

    host.delete(&acme)?;
    super::host::eventually("forwarding is off again", || Ok(forwarding("eth0")?.trim() == "0"))
}

#[test]
fn a_host_that_forwards_by_itself_goes_on_doing_so() -> Result<()> {
    let (hosts, _underlay) = two_hosts()?;
    let acme = with_egress("acme", 7)?;
    hosts[0].machine.run("sysctl -qw net.ipv4.conf.all.forwarding=1")?;
    hosts[0].apply(&acme, &[])?;
    let rules = hosts[0].machine.run("nft list set ip goliath uplinks")?;
    ensure!(!rules.contains("elements"), "the agent guards a device that is not its own: {rules}");
    hosts[0].delete(&acme)?;
    super::host::eventually("the network is gone", || Ok(!hosts[0].knows(&acme)?))?;
    let forwarding = hosts[0].machine.run("sysctl -n net.ipv4.conf.eth0.forwarding")?;
    ensure!(forwarding.trim() == "1", "the agent turned the administrator's forwarding off");
    Ok(())
}
