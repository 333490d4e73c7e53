use proptest::prelude::*;

use super::{super::desired::tests::states, *};
use crate::network::state::DeviceKind;

fn after_all(state: State, changes: &[Change]) -> State {
    changes.iter().fold(state, State::after)
}

/// What somebody may do by hand to a state that is right.
fn meddled() -> impl Strategy<Value = State> {
    let fraction = || prop::collection::vec(any::<bool>(), 64);
    (states(), fraction(), fraction(), any::<bool>()).prop_map(|(mut state, kept, changed, rules)| {
        let mut kept = kept.into_iter().cycle();
        let mut keep = || kept.next().unwrap_or(true);
        let roles: Vec<Role> = state.devices.keys().copied().collect();
        for (role, changed) in roles.into_iter().zip(changed.into_iter().cycle()) {
            if !keep() && !keep() {
                state = state.without(role);
            } else if changed && let Some(device) = state.devices.get_mut(&role) {
                device.mtu += 1;
                device.up = false;
                device.port = None;
            }
        }
        state.addresses.retain(|_| keep());
        state.routes.retain(|_| keep());
        state.bridge_entries.retain(|_, _| keep());
        state.tunnel_entries.retain(|_, _| keep());
        state.flood.retain(|_| keep());
        state.neighbours.retain(|_, _| keep());
        state.sysctls.retain(|_, _| keep());
        state.senders.retain(|_| keep());
        state.rules = rules;
        state.strays.insert("stray0".to_owned());
        state
    })
}

proptest! {
    #[test]
    fn the_changes_lead_from_any_state_to_the_desired_one(found in meddled(), desired in states()) {
        let changes = found.changes_to(&desired);
        prop_assert_eq!(after_all(found, &changes), desired);
    }

    #[test]
    fn what_is_right_needs_no_change(desired in states()) {
        prop_assert_eq!(desired.changes_to(&desired), Vec::new());
    }

    #[test]
    fn nothing_is_written_to_a_device_that_is_not_there(found in meddled(), desired in states()) {
        let mut state = found.clone();
        for change in found.changes_to(&desired) {
            let needed = match &change {
                Change::SetDevice(role, _) | Change::AddAddress(role, _) | Change::PutBridgeEntry(_, role) => Some(*role),
                Change::PutRoute(route) => Some(route.device),
                Change::PutTunnelEntry(..) | Change::AddFlood(_) => Some(Role::Vxlan),
                Change::PutNeighbour(_) | Change::CreateDevice(Role::Gateway, _) => Some(Role::Bridge),
                _ => None,
            };
            if let Some(role) = needed {
                prop_assert!(state.devices.contains_key(&role), "{} without {}", change, role);
            }
            state = state.after(&change);
        }
    }

    #[test]
    fn no_guest_speaks_before_there_are_rules(found in meddled(), desired in states()) {
        let changes = found.changes_to(&desired);
        if let Some(load) = changes.iter().position(|change| matches!(change, Change::LoadRules(_))) {
            let is_tap = |change: &Change| matches!(change, Change::SetDevice(Role::Tap(_), _));
            prop_assert!(changes.iter().position(is_tap).is_none_or(|tap| load < tap));
        }
    }

    #[test]
    fn the_cost_of_a_change_is_its_own_and_not_that_of_the_network(desired in states()) {
        let mac = MacAddress::try_from([6, 9, 9, 9, 9, 9]).unwrap();
        let vtep = Ipv4Addr::new(192, 0, 2, 99);
        let mut grown = desired.clone();
        grown.tunnel_entries.insert(mac, vtep);
        prop_assert_eq!(desired.changes_to(&grown), vec![Change::PutTunnelEntry(mac, vtep)]);
        prop_assert_eq!(grown.changes_to(&desired), vec![Change::DeleteTunnelEntry(mac, vtep)]);
    }
}

#[test]
fn another_vni_needs_another_tunnel_and_all_that_hung_on_it() {
    let vxlan =
        |vni: u32| DeviceKind::Vxlan { vni: vni.try_into().unwrap(), port: 4789, local: Ipv4Addr::new(192, 0, 2, 1) };
    let device = |kind| Device { kind, mac_address: None, mtu: 1450, alias: String::new(), port: None, up: true };
    let mac = MacAddress::try_from([6, 9, 9, 9, 9, 9]).unwrap();
    let state = |vni| {
        let mut state = State::default();
        state.devices.insert(Role::Vxlan, device(vxlan(vni)));
        state.flood.insert(Ipv4Addr::new(192, 0, 2, 2));
        state.tunnel_entries.insert(mac, Ipv4Addr::new(192, 0, 2, 2));
        state
    };
    let told: Vec<String> = state(7).changes_to(&state(8)).iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "delete device vxlan",
            "create device vxlan",
            "set device vxlan",
            "set 06:09:09:09:09:09 at 192.0.2.2",
            "add 192.0.2.2 to broadcasts"
        ]
    );
}
