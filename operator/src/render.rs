//! First-boot configuration of guests: templates in the Jinja language, and what they are told of their cluster.
//!
//! The templates of cloud-config/ are part of the program; a directory may hold others, and others of the same names.
//! A value that is not given is an error, which names the template, the line and the value.

use std::{collections::BTreeMap, path::Path};

use minijinja::{AutoEscape, Environment, UndefinedBehavior, syntax::SyntaxConfig};

use crate::objects::{CloudInit, Document, Seed, SeedKind, SeedTemplate, Template, TemplateSource};

mod document;
mod error;
mod source;
#[cfg(test)]
mod tests;
mod values;

pub use error::{RenderError, TemplatesError};
pub use values::{Inputs, Member, Node};

/// A template of a manifest has no name of its own.
const INLINE: &str = "inline";

/// What rendering one document may cost, in minijinja's instructions: far more than any takes that somebody wrote, and
/// the end for one that never ends.
const FUEL: u64 = 1_000_000;

/// The templates there are.
#[derive(Debug, Clone)]
pub struct Templates {
    environment: Environment<'static>,
}

impl Templates {
    /// The operator's own; those of the directory, where one is given, stand in their place. All of them are read now, so
    /// that a mistake is told when the operator starts.
    pub fn load(directory: Option<&Path>) -> Result<Self, TemplatesError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        // Without it no error names the value that is not there. What errors hold then, values too, which may be secrets,
        // goes no further than to `RenderError::of`.
        environment.set_debug(true);
        let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
        environment.set_syntax(syntax.map_err(|error| TemplatesError::Template(RenderError::of("", &error)))?);
        let given = directory.map(source::read).transpose()?.unwrap_or_default();
        let own = source::OWN.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        let all: BTreeMap<String, String> = own.chain(given).collect();
        for (name, text) in all {
            environment
                .add_template_owned(name.clone(), text)
                .map_err(|error| TemplatesError::Template(RenderError::of(&name, &error)))?;
        }
        Ok(Self { environment })
    }

    /// The seed of one guest.
    pub fn seed(&self, template: &SeedTemplate, inputs: &Inputs<'_>) -> Result<Seed, RenderError> {
        let kind = match template {
            SeedTemplate::Ignition(source) => {
                let text = self.render(source, inputs)?;
                document::check_ignition(&text).map_err(|problem| RenderError::gives(name_of(source), problem))?;
                SeedKind::Ignition(Document::from(text))
            }
            SeedTemplate::CloudInit(source) => {
                let text = self.render(source, inputs)?;
                document::check_user_data(&text).map_err(|problem| RenderError::gives(name_of(source), problem))?;
                SeedKind::CloudInit(CloudInit { user_data: Document::from(text), vendor_data: Document::default() })
            }
        };
        Ok(Seed { kind, ntp_servers: inputs.spec.network.ntp_servers.clone() })
    }

    fn render(&self, source: &TemplateSource, inputs: &Inputs<'_>) -> Result<String, RenderError> {
        let values = values::of(inputs, &source.values);
        let rendered = match &source.template {
            Template::Name(name) => match self.environment.get_template(name.as_str()) {
                Ok(template) => template.render(values),
                Err(_) => return Err(RenderError::unknown(name, &self.names())),
            },
            Template::Inline(text) => self.environment.render_named_str(INLINE, text.as_str(), values),
        };
        rendered.map_err(|error| RenderError::of(name_of(source), &error))
    }

    /// Those that a manifest can name; parts of them lie in directories.
    fn names(&self) -> Vec<String> {
        let names = self.environment.templates().map(|(name, _)| name.to_owned());
        let mut names: Vec<_> = names.filter(|name| !name.contains('/')).collect();
        names.sort_unstable();
        names
    }
}

fn name_of(source: &TemplateSource) -> &str {
    match &source.template {
        Template::Name(name) => name.as_str(),
        Template::Inline(_) => INLINE,
    }
}
