//! Finds in a manifest what the agent calls `spec.machine.memory_bytes`.

use std::fmt::Write as _;

use super::{
    problem::Position,
    yaml::{Entry, Node, Value},
};

/// Which kind of manifest a path is about: they put their names in different places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Guest,
    Network,
}

/// The place that a field of the API has in a manifest: its path there and the position of the nearest thing that is
/// written in the file.
pub(crate) fn locate(kind: Kind, root: &Node, field: &str) -> (String, Position) {
    let path = manifest_path(kind, field);
    let mut node = root;
    let mut position = root.position;
    for segment in &path {
        let found = match (segment, &node.value) {
            (Segment::Key(names), Value::Mapping(entries)) => {
                let entry = |name: &String| entries.iter().find(|entry| entry.key == *name);
                names.iter().find_map(entry).map(|Entry { position, value, .. }| (*position, value))
            }
            (Segment::Index(index), Value::Sequence(items)) => items.get(*index).map(|item| (item.position, item)),
            _ => None,
        };
        let Some((place, next)) = found else { return (display(&path), position) };
        (position, node) = (place, next);
    }
    // A single value that is wrong is underlined itself, not its name.
    let single = matches!(&node.value, Value::Scalar { text, .. } if !text.contains('\n')) && !node.is_null();
    (display(&path), if single { node.position } else { position })
}

enum Segment {
    /// The field's names in the manifest, the usual one first.
    Key(Vec<String>),
    Index(usize),
}

fn manifest_path(kind: Kind, field: &str) -> Vec<Segment> {
    let field = field.replace('[', ".").replace(']', "");
    let mut names: Vec<&str> = field.split('.').filter(|name| !name.is_empty()).collect();
    // Some paths start at the request, some at the spec.
    if !matches!(names.first(), Some(&("spec" | "peers" | "cluster"))) {
        names.insert(0, "spec");
    }
    let moved: &[&str] = match (kind, names.as_slice()) {
        (Kind::Guest, ["spec", "name" | "cluster" | "uid" | "generation" | "labels", ..])
        | (Kind::Network, ["spec", "generation"]) => {
            names[0] = "metadata";
            &names
        }
        (Kind::Network, ["spec", "cluster"] | ["cluster"]) => &["metadata", "name"],
        (Kind::Network, ["peers", "generation"]) => &["metadata", "peers_generation"],
        (Kind::Network, ["peers", "peers", ..]) => {
            names[0] = "spec";
            &names
        }
        (Kind::Network, ["peers", ..]) => {
            names.insert(0, "spec");
            &names
        }
        (Kind::Guest, ["spec", "boot", "method", ..]) => {
            names.remove(2);
            &names
        }
        (Kind::Guest, ["spec", "boot", "firmware", "firmware"]) => &["spec", "boot", "firmware", "path"],
        _ => &names,
    };
    moved.iter().map(|name| segment(name)).collect()
}

fn segment(name: &str) -> Segment {
    if let Ok(index) = name.parse() {
        return Segment::Index(index);
    }
    let name = name.strip_suffix("_bytes").unwrap_or(name);
    let mut camel = String::with_capacity(name.len());
    let mut upper = false;
    for c in name.chars() {
        match c {
            '_' => upper = true,
            _ if upper => {
                camel.push(c.to_ascii_uppercase());
                upper = false;
            }
            _ => camel.push(c),
        }
    }
    let file = format!("{camel}File");
    Segment::Key(vec![camel, file])
}

fn display(path: &[Segment]) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Index(index) => {
                // Writing to a String does not fail.
                let _ = write!(text, "[{index}]");
            }
            Segment::Key(names) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(names.first().map_or("", String::as_str));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::yaml;

    const GUEST: &str = "\
kind: Guest
metadata:
  name: Worker
  cluster: acme
spec:
  machine:
    vcpus: 2
    memory: 3B
  disks:
    - root: {size: 4GiB}
    - data:
        serial: etcd!
  seed:
    cloudInit:
      userDataFile: missing.yaml
";

    #[test]
    fn a_field_of_the_api_is_found_in_the_file() {
        let root = &yaml::parse(GUEST).unwrap()[0];
        for (field, path, line, column) in [
            ("spec.machine.memory_bytes", "spec.machine.memory", 8, 13),
            ("machine.memory_bytes", "spec.machine.memory", 8, 13),
            ("spec.name", "metadata.name", 3, 9),
            ("spec.disks[1].data.serial", "spec.disks[1].data.serial", 12, 17),
            ("spec.disks[1].data.size_bytes", "spec.disks[1].data.size", 11, 7),
            ("spec.disks.0.root.size_bytes", "spec.disks[0].root.size", 10, 20),
            ("spec.seed.cloud_init.user_data", "spec.seed.cloudInit.userData", 15, 21),
            ("spec.network.ipv4_address", "spec.network.ipv4Address", 5, 1),
            ("spec.uid", "metadata.uid", 2, 1),
        ] {
            assert_eq!(locate(Kind::Guest, root, field), (path.to_owned(), Position { line, column }), "{field}");
        }
    }

    #[test]
    fn peers_of_a_network_are_found_too() {
        let text = "metadata: {name: acme}\nspec:\n  vni: 0\n  peers:\n    - host: b\n      underlayAddress: 1.2.3.4\n";
        let root = &yaml::parse(text).unwrap()[0];
        for (field, path, line, column) in [
            ("peers.peers[0].underlay_address", "spec.peers[0].underlayAddress", 6, 24),
            ("peers[0].host", "spec.peers[0].host", 5, 13),
            ("spec.cluster", "metadata.name", 1, 18),
            ("spec.vni", "spec.vni", 3, 8),
            ("peers.generation", "metadata.peersGeneration", 1, 1),
        ] {
            assert_eq!(locate(Kind::Network, root, field), (path.to_owned(), Position { line, column }), "{field}");
        }
    }
}
