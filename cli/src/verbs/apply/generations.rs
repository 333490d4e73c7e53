//! Which generations to offer. Whether a specification differs from the one held is the agent's to judge: the same
//! generation again with the same specification changes nothing, and with another one is refused.

/// In the order in which to try them.
pub(super) fn of_guest(given: Option<u64>, held: Option<u64>) -> Vec<u64> {
    match (given, held) {
        (Some(generation), _) => vec![generation],
        (None, None) => vec![1],
        (None, Some(held)) => vec![held, held.saturating_add(1)],
    }
}

/// Generations of a network and of its peer list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NetworkGenerations {
    pub(super) network: u64,
    pub(super) peers: u64,
}

/// The fewest new generations first; without peers to send there is nothing to try for them.
pub(super) fn of_network(
    given: (Option<u64>, Option<u64>),
    held: Option<NetworkGenerations>,
    with_peers: bool,
) -> Vec<NetworkGenerations> {
    let networks = of_guest(given.0, held.map(|held| held.network));
    // A network without a peer list holds generation 0 of it, which is never offered.
    let held_peers = held.map(|held| held.peers).filter(|generation| *generation > 0);
    let mut peers = of_guest(given.1, held_peers);
    if !with_peers {
        peers.truncate(1);
    }
    let mut candidates: Vec<(usize, NetworkGenerations)> = Vec::new();
    for (network_step, network) in networks.iter().enumerate() {
        for (peers_step, peers) in peers.iter().enumerate() {
            candidates.push((network_step + peers_step, NetworkGenerations { network: *network, peers: *peers }));
        }
    }
    candidates.sort_by_key(|(steps, _)| *steps);
    candidates.into_iter().map(|(_, candidate)| candidate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_generation_is_the_only_one_offered() {
        assert_eq!(of_guest(Some(7), Some(3)), [7]);
        assert_eq!(of_guest(None, None), [1]);
        assert_eq!(of_guest(None, Some(3)), [3, 4]);
    }

    #[test]
    fn a_network_grows_no_more_than_it_must() {
        let held = Some(NetworkGenerations { network: 2, peers: 5 });
        let tried = |given, held, with_peers| -> Vec<(u64, u64)> {
            of_network(given, held, with_peers).iter().map(|tried| (tried.network, tried.peers)).collect()
        };
        assert_eq!(tried((None, None), held, true), [(2, 5), (2, 6), (3, 5), (3, 6)]);
        assert_eq!(tried((None, None), held, false), [(2, 5), (3, 5)]);
        assert_eq!(tried((None, None), None, true), [(1, 1)]);
        assert_eq!(tried((Some(9), None), held, true), [(9, 5), (9, 6)]);
        let without_peers = Some(NetworkGenerations { network: 2, peers: 0 });
        assert_eq!(tried((None, None), without_peers, true), [(2, 1), (3, 1)]);
    }
}
