//! Manifests for an operator: any objects, sent as they are. The operator knows their fields; here is known where each
//! stands in its file.

use std::{
    path::{Path, PathBuf},
    rc::Rc,
};

use serde_json::{Map, Number, Value as Json};

use super::{
    ManifestError,
    problem::{LocatedProblem, Position, Problem, Source},
    read_file,
    yaml::{self, Entry, Node, Value},
};

/// What the names of manifests end with, in directories.
const SUFFIXES: [&str; 3] = ["yaml", "yml", "json"];

/// What an operator says of a field that its kind does not have.
const UNKNOWN: &str = "is not known here";

/// One document of a file.
#[derive(Debug)]
pub(crate) struct ObjectDocument {
    source: Rc<Source>,
    root: Rc<Node>,
}

/// All documents, in the order in which they are sent.
#[derive(Debug)]
pub(crate) struct ObjectDocuments(Vec<ObjectDocument>);

impl ObjectDocuments {
    /// Reads files, `-` being the standard input, and the manifests of directories by name.
    pub(crate) fn read(paths: &[PathBuf]) -> Result<Self, ManifestError> {
        let mut documents = Vec::new();
        let mut problems = Vec::new();
        for file in files(paths)? {
            let (source, _) = read_file(&file)?;
            let source = Rc::new(source);
            match yaml::parse(&source.text) {
                Ok(roots) => {
                    documents.extend(roots.into_iter().map(|root| ObjectDocument { source: Rc::clone(&source), root }));
                }
                Err(problem) => problems.push(LocatedProblem { source, problem }),
            }
        }
        if !problems.is_empty() {
            return Err(ManifestError::Mistakes(problems));
        }
        if documents.is_empty() {
            let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            return Err(ManifestError::Nothing(names.join(", ")));
        }
        Ok(Self(documents))
    }

    /// As they are sent.
    pub(crate) fn json(&self) -> Vec<String> {
        self.0.iter().map(|document| json(&document.root).to_string()).collect()
    }

    /// Shows what the operator says of `manifests[2].spec.masters` where that stands; none for fields of no manifest.
    pub(crate) fn complaint(&self, field: &str, reason: &str) -> Option<LocatedProblem> {
        let (index, path) = field.strip_prefix("manifests[")?.split_once(']')?;
        let document = self.0.get(index.parse::<usize>().ok()?)?;
        let path = path.strip_prefix('.').unwrap_or(path);
        // A field that nobody knows is wrong itself, not its value.
        let is_value = !reason.starts_with(UNKNOWN);
        let position = locate(&document.root, path, is_value);
        let problem = Problem::new(position, path, reason);
        Some(LocatedProblem { source: Rc::clone(&document.source), problem })
    }
}

/// Files as they were given, and those of directories.
fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, ManifestError> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let unreadable = |reason| ManifestError::Unreadable { file: path.clone(), reason };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(path).map_err(unreadable)? {
            let file = entry.map_err(unreadable)?.path();
            let is_manifest = |file: &Path| {
                file.extension().is_some_and(|extension| SUFFIXES.iter().any(|suffix| extension == *suffix))
            };
            if file.is_file() && is_manifest(&file) {
                found.push(file);
            }
        }
        found.sort();
        files.extend(found);
    }
    Ok(files)
}

/// A node as JSON; what is written without quotes means what the core schema of YAML 1.2 says.
fn json(node: &Node) -> Json {
    match &node.value {
        Value::Scalar { text, plain: true } => plain(text),
        Value::Scalar { text, plain: false } => Json::String(text.clone()),
        Value::Sequence(items) => items.iter().map(|item| json(item)).collect(),
        Value::Mapping(entries) => {
            let fields = entries.iter().map(|Entry { key, value, .. }| (key.clone(), json(value)));
            Json::Object(fields.collect::<Map<_, _>>())
        }
    }
}

fn plain(text: &str) -> Json {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Json::Null,
        "true" | "True" | "TRUE" => return Json::Bool(true),
        "false" | "False" | "FALSE" => return Json::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if whole {
        let unsigned = text.strip_prefix('+').unwrap_or(text);
        let number = unsigned.parse::<u64>().map(Number::from).or_else(|_| unsigned.parse::<i64>().map(Number::from));
        return number.map_or_else(|_| Json::String(text.to_owned()), Json::Number);
    }
    let other_base = |prefix: &str, radix| {
        let digits = text.strip_prefix(prefix)?;
        u64::from_str_radix(digits, radix).ok().map(|number| Json::Number(number.into()))
    };
    if let Some(number) = other_base("0x", 16).or_else(|| other_base("0o", 8)) {
        return number;
    }
    // A float has a dot or an exponent, and nothing but digits besides.
    let shaped = digits.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte))
        && digits.starts_with(|first: char| first.is_ascii_digit() || first == '.')
        && digits.bytes().any(|byte| byte.is_ascii_digit());
    let number = shaped.then(|| text.parse::<f64>().ok()).flatten().and_then(Number::from_f64);
    number.map_or_else(|| Json::String(text.to_owned()), Json::Number)
}

/// The position of a field, or of the nearest thing around it that is written in the file.
fn locate(root: &Node, path: &str, is_value: bool) -> Position {
    let (mut node, mut position) = (root, root.position);
    for segment in segments(path) {
        let found = match &node.value {
            Value::Mapping(entries) => {
                entries.iter().find(|entry| entry.key == segment).map(|entry| (entry.position, &entry.value))
            }
            Value::Sequence(items) => {
                segment.parse::<usize>().ok().and_then(|index| items.get(index)).map(|item| (item.position, item))
            }
            Value::Scalar { .. } => None,
        };
        let Some((place, next)) = found else { return position };
        (position, node) = (place, next);
    }
    // A single value that is wrong is underlined itself, not its name.
    let single =
        is_value && matches!(&node.value, Value::Scalar { text, .. } if !text.contains('\n')) && !node.is_null();
    if single { node.position } else { position }
}

/// `spec.workers[1].labels["a.b"]` in steps.
fn segments(path: &str) -> Vec<String> {
    let mut segments = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix("[\"") {
            let (key, after) = inside.split_once("\"]").unwrap_or((inside, ""));
            segments.push(key.to_owned());
            rest = after;
        } else if let Some(inside) = rest.strip_prefix('[') {
            let (index, after) = inside.split_once(']').unwrap_or((inside, ""));
            segments.push(index.to_owned());
            rest = after;
        } else {
            let name = rest.strip_prefix('.').unwrap_or(rest);
            let end = name.find(['.', '[']).unwrap_or(name.len());
            let (name, after) = name.split_at(end);
            segments.push(name.to_owned());
            rest = after;
        }
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
kind: Cluster
metadata:
  name: acme
  labels: {a.b/c: 5}
spec:
  kubernetes: {version: 1.31.0, apiPort: 6443}
  workers:
    - name: small
      replicas: 0x10
    - name: \"7\"
      ratio: 1.5
";

    fn documents(text: &str) -> ObjectDocuments {
        let source = Rc::new(Source { name: "cluster.yaml".to_owned(), text: text.to_owned() });
        let roots = yaml::parse(text).unwrap();
        ObjectDocuments(roots.into_iter().map(|root| ObjectDocument { source: Rc::clone(&source), root }).collect())
    }

    #[test]
    fn yaml_becomes_the_json_that_it_means() {
        let sent = documents(TEXT).json();
        assert_eq!(
            sent,
            [concat!(
                r#"{"kind":"Cluster","metadata":{"labels":{"a.b/c":5},"name":"acme"},"#,
                r#""spec":{"kubernetes":{"apiPort":6443,"version":"1.31.0"},"#,
                r#""workers":[{"name":"small","replicas":16},{"name":"7","ratio":1.5}]}}"#
            )]
        );
        for (text, json) in [
            ("~", "null"),
            ("yes", "\"yes\""),
            ("TRUE", "true"),
            ("-7", "-7"),
            ("512MiB", "\"512MiB\""),
            ("10.7.0.0/24", "\"10.7.0.0/24\""),
            ("1e3", "1000.0"),
            (".", "\".\""),
            ("1.2.3", "\"1.2.3\""),
            ("99999999999999999999999", "\"99999999999999999999999\""),
            ("'5'", "\"5\""),
        ] {
            assert_eq!(documents(&format!("- {text}")).json(), [format!("[{json}]")], "{text}");
        }
    }

    #[test]
    fn a_field_is_found_in_its_file() {
        let documents = documents(TEXT);
        let at = |field: &str| {
            let LocatedProblem { problem: Problem { position: Position { line, column }, path, .. }, .. } =
                documents.complaint(field, "is bad").unwrap();
            (path, line, column)
        };
        for (field, path, line, column) in [
            ("manifests[0].metadata.name", "metadata.name", 3, 9),
            ("manifests[0].metadata.labels[\"a.b/c\"]", "metadata.labels[\"a.b/c\"]", 4, 19),
            ("manifests[0].spec.workers[1].ratio", "spec.workers[1].ratio", 11, 14),
            ("manifests[0].spec.workers[1].image", "spec.workers[1].image", 10, 7),
            ("manifests[0].spec.network", "spec.network", 5, 1),
            ("manifests[0]", "", 1, 1),
        ] {
            assert_eq!(at(field), (path.to_owned(), line, column), "{field}");
        }
        let unknown = documents.complaint("manifests[0].spec.workers[1].ratio", "is not known here").unwrap();
        assert_eq!(unknown.problem.position, Position { line: 11, column: 7 });
        for field in ["manifests[1].spec", "prune.selector", "", "manifests[x]"] {
            assert!(documents.complaint(field, "is bad").is_none(), "{field}");
        }
    }

    #[test]
    fn a_directory_gives_its_manifests_by_name() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.yml", "c.json", "notes.txt"] {
            std::fs::write(directory.path().join(name), format!("name: {name}\n")).unwrap();
        }
        std::fs::create_dir(directory.path().join("inner.yaml")).unwrap();
        let documents = ObjectDocuments::read(&[directory.path().to_owned()]).unwrap();
        assert_eq!(documents.json(), [r#"{"name":"a.yml"}"#, r#"{"name":"b.yaml"}"#, r#"{"name":"c.json"}"#]);
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(ObjectDocuments::read(&[empty.path().to_owned()]), Err(ManifestError::Nothing(_))));
    }
}
