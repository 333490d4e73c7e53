//! Manifests: what people write down about guests and networks, in YAML.

mod field_path;
mod guest;
mod mapping;
mod network;
pub(crate) mod objects;
mod problem;
mod quantity;
pub(crate) mod render;
pub(crate) mod words;
mod yaml;

use std::{
    collections::HashMap,
    io::Read as _,
    path::{Path, PathBuf},
    rc::Rc,
};

pub(crate) use field_path::Kind;
pub(crate) use guest::{GuestManifest, derived_uid};
pub(crate) use network::NetworkManifest;
pub(crate) use quantity::{parse_duration, parse_size, to_proto as duration_to_proto};

use mapping::{Mapping, Problems};
use problem::{LocatedProblem, Position, Problem, Source};
use yaml::Node;

/// Which version of the manifests' form this is.
pub(crate) const API_VERSION: &str = "goliath.dev/v1alpha1";

/// Why files could not be taken as manifests. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("cannot read {}", file.display())]
    Unreadable {
        file: PathBuf,
        #[source]
        reason: std::io::Error,
    },
    #[error("{} in the manifest{}: nothing was applied\n\n{}", count(.0.len()), if files(.0) > 1 { "s" } else { "" }, problem::report(.0))]
    Mistakes(Vec<LocatedProblem>),
    #[error("no guest and no network in {0}: nothing to apply")]
    Empty(String),
    #[error("no manifests in {0}: nothing to apply")]
    Nothing(String),
}

fn count(problems: usize) -> String {
    if problems == 1 { "1 mistake".to_owned() } else { format!("{problems} mistakes") }
}

fn files(problems: &[LocatedProblem]) -> usize {
    let mut names: Vec<&str> = problems.iter().map(|problem| problem.source.name.as_str()).collect();
    names.dedup();
    names.len()
}

/// One document of a file.
#[derive(Debug)]
pub(crate) struct Document {
    source: Rc<Source>,
    root: Rc<Node>,
    pub(crate) item: Item,
}

/// What a document describes.
#[derive(Debug)]
pub(crate) enum Item {
    Guest(Box<GuestManifest>),
    Network(NetworkManifest),
}

impl Item {
    fn kind(&self) -> Kind {
        match self {
            Self::Guest(_) => Kind::Guest,
            Self::Network(_) => Kind::Network,
        }
    }

    /// For people: `guest acme/worker-0`, `network acme`.
    pub(crate) fn title(&self) -> String {
        match self {
            Self::Guest(guest) => format!("guest {}", guest.full_name()),
            Self::Network(network) => format!("network {}", network.cluster()),
        }
    }
}

impl Document {
    /// Shows what the agent says of a field where that field stands in the file.
    pub(crate) fn complaint(&self, field: &str, description: &str) -> LocatedProblem {
        let (path, position) = field_path::locate(self.item.kind(), &self.root, field);
        LocatedProblem { source: Rc::clone(&self.source), problem: Problem::new(position, path, description) }
    }
}

/// Reads files, `-` being the standard input, and takes all of their documents or none.
pub(crate) fn read(files: &[PathBuf]) -> Result<Vec<Document>, ManifestError> {
    let mut documents = Vec::new();
    let mut problems = Vec::new();
    for file in files {
        let (source, directory) = read_file(file)?;
        match parse(&Rc::new(source), &directory) {
            Ok(parsed) => documents.extend(parsed),
            Err(found) => problems.extend(found),
        }
    }
    problems.extend(twice(&documents));
    if !problems.is_empty() {
        return Err(ManifestError::Mistakes(problems));
    }
    if documents.is_empty() {
        let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        return Err(ManifestError::Empty(names.join(", ")));
    }
    // A guest needs its network; otherwise the order of the files stays.
    documents.sort_by_key(|document| matches!(document.item, Item::Guest(_)));
    Ok(documents)
}

fn read_file(file: &Path) -> Result<(Source, PathBuf), ManifestError> {
    let unreadable = |reason| ManifestError::Unreadable { file: file.to_owned(), reason };
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(unreadable)?;
        return Ok((Source { name: "<stdin>".to_owned(), text }, PathBuf::from(".")));
    }
    let text = std::fs::read_to_string(file).map_err(unreadable)?;
    let directory = file.parent().unwrap_or(Path::new(".")).to_owned();
    Ok((Source { name: file.display().to_string(), text }, directory))
}

/// All documents of one file, or all of its mistakes.
fn parse(source: &Rc<Source>, directory: &Path) -> Result<Vec<Document>, Vec<LocatedProblem>> {
    let located = |problem| LocatedProblem { source: Rc::clone(source), problem };
    let roots = yaml::parse(&source.text).map_err(|problem| vec![located(problem)])?;
    let problems = Problems::default();
    let mut documents = Vec::new();
    for root in roots {
        if let Some(item) = item(&root, directory, &problems) {
            documents.push(Document { source: Rc::clone(source), root, item });
        }
    }
    let problems: Vec<LocatedProblem> = problems.into_sorted().into_iter().map(located).collect();
    if problems.is_empty() { Ok(documents) } else { Err(problems) }
}

fn item(root: &Node, directory: &Path, problems: &Problems) -> Option<Item> {
    let mapping = Mapping::root(root, problems)?;
    let version = mapping.choice("apiVersion", &[(API_VERSION, ())]);
    mapping.required("apiVersion", version);
    let kind = mapping.choice("kind", &[("Guest", Kind::Guest), ("Network", Kind::Network)]);
    // So that what `get -o yaml` prints can be applied.
    mapping.ignore("status");
    let item = match kind {
        Some(Kind::Guest) => Item::Guest(Box::new(guest::read(&mapping, directory))),
        Some(Kind::Network) => Item::Network(network::read(&mapping)),
        None => {
            mapping.required_text("kind");
            return None;
        }
    };
    mapping.finish();
    Some(item)
}

/// One thing described twice would leave it to chance which description holds.
fn twice(documents: &[Document]) -> Vec<LocatedProblem> {
    let mut first: HashMap<String, &Document> = HashMap::new();
    let mut problems = Vec::new();
    for document in documents {
        let title = document.item.title();
        if let Some(other) = first.get(&title) {
            let Position { line, .. } = other.root.position;
            let message = format!("{title} was described before, in {}:{line}", other.source.name);
            let name = if matches!(document.item, Item::Guest(_)) { "spec.name" } else { "spec.cluster" };
            problems.push(document.complaint(name, &message));
        } else {
            first.insert(title, document);
        }
    }
    problems
}

#[cfg(test)]
mod tests;
