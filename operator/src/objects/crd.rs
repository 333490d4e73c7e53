//! The custom resource definitions of all kinds, generated from their types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use super::{Kind, with_kind};

/// The formats that the API server checks; it warns of others.
const FORMATS: [&str; 6] = ["date-time", "double", "int32", "int64", "ipv4", "ipv6"];

/// What `kubectl apply` takes: one definition for each kind.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    Kind::ALL.iter().map(|kind| with_kind!(*kind, T => definition(T::crd()))).collect()
}

fn definition(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut definition.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            make_structural(schema);
        }
    }
    definition
}

/// Leaves out what the API server does not know: Rust's own number formats, whose bounds stay, and patterns of keys, which
/// it forbids and the types check.
fn make_structural(schema: &mut JSONSchemaProps) {
    if schema.format.as_deref().is_some_and(|format| !FORMATS.contains(&format)) {
        schema.format = None;
    }
    if let Some(values) = schema.pattern_properties.take().and_then(|patterns| patterns.into_values().next()) {
        schema.additional_properties = Some(JSONSchemaPropsOrBool::Schema(Box::new(values)));
    }
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        make_structural(property);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        make_structural(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        make_structural(values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_are_those_that_were_reviewed() {
        for definition in definitions() {
            let name = definition.spec.names.singular.clone().unwrap();
            insta::assert_snapshot!(name, serde_saphyr::to_string(&definition).unwrap());
        }
    }

    /// Kubernetes refuses a definition that breaks these rules of structural schemas.
    #[test]
    fn every_schema_is_structural_and_bounded() {
        for definition in definitions() {
            for version in &definition.spec.versions {
                assert!(version.subresources.as_ref().is_some_and(|subresources| subresources.status.is_some()));
                let schema = version.schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
                for part in ["spec", "status"] {
                    structural(&schema.properties.as_ref().unwrap()[part], part);
                }
            }
        }
    }

    fn structural(schema: &JSONSchemaProps, path: &str) {
        assert!(schema.type_.is_some(), "{path} has no type");
        assert!(schema.ref_path.is_none(), "{path} has a reference");
        assert!(schema.pattern_properties.is_none(), "{path} has patterns of keys");
        assert_ne!(schema.x_kubernetes_preserve_unknown_fields, Some(true), "{path} takes unknown fields");
        if schema.type_.as_deref() == Some("array") {
            assert!(schema.max_items.is_some(), "{path} may have any number of items");
        }
        for alternative in schema.one_of.iter().chain(&schema.any_of).chain(&schema.all_of).flatten() {
            assert!(alternative.type_.is_none() && alternative.description.is_none(), "{path}: {alternative:?}");
        }
        for (name, property) in schema.properties.iter().flatten() {
            structural(property, &format!("{path}.{name}"));
        }
        if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
            structural(items, &format!("{path}[]"));
        }
        if let Some(JSONSchemaPropsOrBool::Schema(values)) = &schema.additional_properties {
            structural(values, &format!("{path}.*"));
        }
    }
}
