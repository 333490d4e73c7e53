//! `goliath image`.

use std::time::Duration;

use clap::{Args, Subcommand};
use goliath_proto::agent::v1::{
    CollectGarbageRequest, ListImagesRequest, PullImageRequest, PullImageResponse, RemoveImageRequest,
    pull_image_response::Phase,
};
use indicatif::{ProgressBar, ProgressStyle};

use super::Session;
use crate::{
    connection::Agent,
    failure::Failure,
    output::{
        Format, image, print,
        structured::{self, Notation},
        text::size,
    },
    refusal::Refusal,
};

/// Looks after the images in the host's store
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  goliath image pull registry.example/debian:12
  goliath image ls -o wide
  goliath image rm registry.example/debian:11
  goliath image gc --dry-run")]
pub(crate) struct ImageArguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Makes an image present, and prints its digest
    Pull {
        /// registry.example/repository:tag@sha256:…, or oci-layout:/directory:tag
        reference: String,
    },
    /// Lists the images
    #[command(visible_alias = "list")]
    Ls {
        /// The form of the answer
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Removes an image; refused while a guest uses it
    #[command(visible_alias = "remove")]
    Rm {
        /// A reference by which it was pulled, or its digest
        #[arg(required = true)]
        references: Vec<String>,
    },
    /// Removes what no guest refers to
    Gc {
        /// Say what would go, remove nothing
        #[arg(long)]
        dry_run: bool,
    },
}

pub(super) async fn run(session: &Session, arguments: &ImageArguments) -> Result<(), Failure> {
    let agent = session.agent().await?;
    match &arguments.action {
        Action::Pull { reference } => pull(session, &agent, reference).await,
        Action::Ls { output } => list(session, &agent, *output).await,
        Action::Rm { references } => remove(&agent, references).await,
        Action::Gc { dry_run } => collect_garbage(session, &agent, *dry_run).await,
    }
}

async fn pull(session: &Session, agent: &Agent, reference: &str) -> Result<(), Failure> {
    let refusal = |status: tonic::Status| Refusal::new(format!("pull {reference}"), &status);
    let request = PullImageRequest { reference: reference.to_owned() };
    let mut stream = agent.images().pull_image(request).await.map_err(refusal)?.into_inner();
    let mut progress = Progress::new(session.terminal.progress);
    let mut pulled = None;
    while let Some(response) = stream.message().await.map_err(refusal)? {
        progress.show(&response);
        pulled = response.image.or(pulled);
    }
    progress.finish();
    match pulled {
        Some(image) => print(&format!("{}\n", image.digest)),
        None => Err(refusal(tonic::Status::unavailable("the agent ended the download half-way")).into()),
    }
}

/// A bar on a terminal, a line for each phase elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
    phase: Phase,
}

impl Progress {
    fn new(terminal: bool) -> Self {
        let bar = terminal.then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar, phase: Phase::Unspecified }
    }

    fn show(&mut self, response: &PullImageResponse) {
        let changed = self.phase != response.phase();
        self.phase = response.phase();
        let word = match response.phase() {
            Phase::Resolving => "resolving",
            Phase::Downloading => "downloading",
            Phase::Inspecting => "inspecting",
            Phase::Done | Phase::Unspecified => return,
        };
        match &self.bar {
            Some(bar) => {
                if response.total_bytes > 0 && bar.length().is_none() {
                    // The template is a constant; were it wrong, the spinner would stay.
                    if let Ok(style) = ProgressStyle::with_template(
                        "{spinner} {msg:<11} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
                    ) {
                        bar.set_style(style);
                    }
                }
                if response.total_bytes > 0 {
                    bar.set_length(response.total_bytes);
                }
                bar.set_position(response.downloaded_bytes);
                bar.set_message(word);
            }
            None if changed => eprintln!("{word}{}", of(response.total_bytes)),
            None => {}
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn of(total_bytes: u64) -> String {
    if total_bytes > 0 { format!(" {}", size(total_bytes)) } else { String::new() }
}

async fn list(session: &Session, agent: &Agent, format: Format) -> Result<(), Failure> {
    let response = agent.images().list_images(ListImagesRequest {}).await;
    let mut images = response.map_err(|status| Refusal::new("list the images", &status))?.into_inner().images;
    images.sort_by(|one, other| (&one.references, &one.digest).cmp(&(&other.references, &other.digest)));
    let view = session.view();
    match format {
        Format::Table | Format::Wide if images.is_empty() => {
            eprintln!("no images on this host");
            Ok(())
        }
        Format::Table | Format::Wide => print(&image::table(&images, format == Format::Wide, view.now).render(&view)),
        Format::Json => print(&Notation::Json.many(&structured::images(&images))),
        Format::Yaml => print(&Notation::Yaml.many(&structured::images(&images))),
    }
}

async fn remove(agent: &Agent, references: &[String]) -> Result<(), Failure> {
    for reference in references {
        let response = agent.images().remove_image(RemoveImageRequest { reference: reference.clone() }).await;
        let freed = response.map_err(|status| Refusal::new(format!("remove {reference}"), &status))?;
        print(&format!("removed {reference}: {} freed\n", size(freed.into_inner().freed_bytes)))?;
    }
    Ok(())
}

async fn collect_garbage(session: &Session, agent: &Agent, dry_run: bool) -> Result<(), Failure> {
    let response = agent.images().collect_garbage(CollectGarbageRequest { dry_run }).await;
    let garbage = response.map_err(|status| Refusal::new("collect garbage", &status))?.into_inner();
    let view = session.view();
    let mut text = String::new();
    if !garbage.removed.is_empty() {
        text.push_str(&image::table(&garbage.removed, false, view.now).render(&view));
        text.push('\n');
    }
    let number = garbage.removed.len();
    let images = if number == 1 { "image" } else { "images" };
    let verb = if dry_run { "would be removed" } else { "removed" };
    print(&format!("{text}{number} {images} {verb}, {}\n", size(garbage.freed_bytes)))
}
