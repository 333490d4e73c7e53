use super::*;

fn cluster() -> Value {
    serde_json::json!({
        "apiVersion": "goliath.dev/v1alpha1",
        "kind": "Cluster",
        "metadata": { "name": "acme" },
        "spec": {
            "kubernetes": { "version": "1.31.0", "serviceCidr": "10.96.0.0/16", "podCidr": "10.244.0.0/16" },
            "network": { "cidr": "10.7.0.0/24" },
            "masters": { "replicas": 1, "machine": { "vcpus": 1, "memory": "512MiB" }, "image": "registry.example/node:1" },
            "workers": [
                {
                    "name": "small", "replicas": 2, "machine": { "vcpus": 1, "memory": "512MiB" },
                    "image": "registry.example/node:1",
                },
                {
                    "name": "large", "replicas": 2, "machine": { "vcpus": 1, "memory": "512MiB" },
                    "image": "registry.example/node:1",
                },
            ],
        },
    })
}

fn read_value(manifest: &Value) -> Result<Manifest, Vec<Violation>> {
    read(&Path::root("manifests").index(0), &manifest.to_string())
}

/// What is said of a cluster that was changed like this: fields without `manifests[0].`, each with its complaint.
fn complaints(change: impl FnOnce(&mut Value)) -> Vec<(String, String)> {
    let mut manifest = cluster();
    change(&mut manifest);
    let violations = read_value(&manifest).map_or_else(|violations| violations, |_| Vec::new());
    let short = |field: &str| field.strip_prefix("manifests[0]").unwrap_or(field).trim_start_matches('.').to_owned();
    violations.into_iter().map(|violation| (short(&violation.field), violation.reason)).collect()
}

fn fields(change: impl FnOnce(&mut Value)) -> Vec<String> {
    complaints(change).into_iter().map(|(field, _)| field).collect()
}

#[test]
fn a_good_manifest_makes_an_object() {
    let manifest = read_value(&cluster()).unwrap();
    assert_eq!((manifest.kind(), manifest.name()), (Kind::Cluster, "acme"));
    assert!(manifest.object.spec().contains("\"apiPort\":6443"), "defaults are there: {}", manifest.object.spec());
    assert_eq!(manifest.about, About::default());
}

#[test]
fn what_was_printed_can_be_read_again() {
    let mut printed = cluster();
    printed["status"] = serde_json::json!({ "conditions": [], "anything": 1 });
    printed["metadata"] = serde_json::json!({
        "name": "acme", "uid": "1", "generation": 3, "resourceVersion": "17", "finalizers": ["goliath.dev/cluster"],
        "creationTimestamp": "2026-01-01T00:00:00Z", "labels": { "team": "a" },
    });
    let manifest = read_value(&printed).unwrap();
    assert_eq!(manifest.about.generation, Some(3));
    assert_eq!(manifest.about.finalizers, ["goliath.dev/cluster"]);
    assert_eq!(manifest.object.metadata().uid, None, "that is the store's to say");
    assert_eq!(manifest.object.metadata().labels.as_ref().unwrap()["team"], "a");
}

#[test]
fn all_that_is_wrong_is_told_each_with_its_field() {
    let told = complaints(|manifest| {
        manifest["spec"]["masters"]["replicas"] = 2.into();
        manifest["spec"]["masters"]["machine"]["memry"] = "1GiB".into();
        manifest["spec"]["masters"]["machine"]["vcpus"] = "many".into();
        manifest["spec"]["network"]["cidr"] = "10.7.0.0/99".into();
        manifest["spec"]["workers"][0]["replcas"] = 1.into();
        manifest["spec"]["workers"][1]["name"] = "UPPER".into();
        manifest["spec"].as_object_mut().unwrap().remove("kubernetes");
        manifest["metadata"]["labels"] = serde_json::json!({ "team": 5 });
        manifest["surprise"] = 1.into();
    });
    let of = |field: &str| {
        let found = told.iter().find(|(told, _)| told == field);
        found.unwrap_or_else(|| panic!("{field} is not told: {told:#?}")).1.clone()
    };
    assert!(of("spec.masters.replicas").contains('2'));
    assert_eq!(of("spec.masters.machine.memry"), "is not known here: did you mean `memory`?");
    assert_eq!(of("spec.masters.machine.vcpus"), "is string \"many\": expected a whole number");
    assert!(of("spec.network.cidr").contains("10.7.0.0/99"));
    assert_eq!(of("spec.workers[0].replcas"), "is not known here: did you mean `replicas`?");
    assert!(of("spec.workers[1].name").contains("UPPER") || of("spec.workers[1].name").contains('U'));
    assert_eq!(of("spec.kubernetes"), "must be set");
    assert_eq!(of("metadata.labels.team"), "is integer `5`: expected a string");
    assert_eq!(of("surprise"), "is not known here");
    assert_eq!(told.len(), 9, "and nothing twice, and nothing that follows from another: {told:#?}");
}

#[test]
fn what_is_missing_is_told_wherever_it_is() {
    let told = fields(|manifest| {
        for field in ["network", "masters"] {
            manifest["spec"].as_object_mut().unwrap().remove(field);
        }
        manifest["spec"]["workers"][1].as_object_mut().unwrap().remove("image");
        manifest["spec"]["workers"][1]["machine"].as_object_mut().unwrap().clear();
        manifest["metadata"].as_object_mut().unwrap().clear();
    });
    for field in [
        "metadata.name",
        "spec.network",
        "spec.masters",
        "spec.workers[1].image",
        "spec.workers[1].machine.vcpus",
        "spec.workers[1].machine.memory",
    ] {
        assert!(told.iter().any(|known| known == field), "{field}: {told:#?}");
    }
    assert_eq!(told.len(), 6, "{told:#?}");
}

#[test]
fn places_in_lists_stay_right_when_others_were_wrong_before() {
    let told = fields(|manifest| {
        let good = manifest["spec"]["workers"][0].clone();
        let workers = manifest["spec"]["workers"].as_array_mut().unwrap();
        workers.clear();
        for index in 0..6 {
            let mut worker = good.clone();
            worker["name"] = format!("pool-{index}").into();
            workers.push(worker);
        }
        for index in [1, 2, 4] {
            workers[index] = "no object".into();
        }
        workers[5]["image"] = 1.into();
        workers[3]["replicas"] = "x".into();
    });
    assert_eq!(
        {
            let mut told = told;
            told.sort();
            told
        },
        ["spec.workers[1]", "spec.workers[2]", "spec.workers[3].replicas", "spec.workers[4]", "spec.workers[5].image"]
    );
}

#[test]
fn the_envelope_is_strict() {
    for (change, field) in [
        ((|manifest| manifest["apiVersion"] = "v1".into()) as fn(&mut Value), "apiVersion"),
        (|manifest| manifest["kind"] = "cluster".into(), "kind"),
        (|manifest| manifest["kind"] = "Pod".into(), "kind"),
        (|manifest| manifest["metadata"]["name"] = "a.b".into(), "metadata.name"),
        (|manifest| manifest["metadata"]["namespace"] = "default".into(), "metadata.namespace"),
        (|manifest| manifest["metadata"]["labels"] = serde_json::json!({ "a b": "c" }), r#"metadata.labels["a b"]"#),
        (|manifest| *manifest = serde_json::json!([]), ""),
        (|manifest| *manifest = serde_json::json!("text"), ""),
    ] {
        assert_eq!(fields(change), [field]);
    }
    let told = read(&Path::root("manifests").index(3), "{").unwrap_err();
    assert_eq!(told[0].field, "manifests[3]");
}

proptest::proptest! {
    /// Whatever is cut out of a manifest or put in its place, the answer is an object or complaints about fields.
    #[test]
    fn no_manifest_makes_it_panic(pointer in 0_usize..200, with in "[a-z0-9./\"\\[\\]{}]{0,12}") {
        let mut manifest = cluster();
        let mut places = Vec::new();
        collect(&manifest, String::new(), &mut places);
        let place = &places[pointer % places.len()];
        if let Some(value) = manifest.pointer_mut(place) {
            *value = serde_json::from_str(&with).unwrap_or(Value::String(with.clone()));
        }
        if let Err(violations) = read_value(&manifest) {
            proptest::prop_assert!(!violations.is_empty());
            proptest::prop_assert!(violations.iter().all(|violation| violation.field.starts_with("manifests[0]")));
        }
    }
}

fn collect(value: &Value, at: String, places: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| collect(value, format!("{at}/{key}"), places)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| collect(value, format!("{at}/{index}"), places));
        }
        _ => {}
    }
    places.push(at);
}
