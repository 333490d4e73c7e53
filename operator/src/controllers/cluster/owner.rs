//! Who made an object, and goes before it.

use crate::objects::{API_VERSION, Cluster, Object, ObjectMeta, OwnerReference, ResourceExt as _};

/// Of an object that goes with the cluster.
pub(super) fn owned_metadata(cluster: &Cluster, name: String) -> ObjectMeta {
    ObjectMeta { name: Some(name), owner_references: Some(vec![owner(cluster)]), ..ObjectMeta::default() }
}

/// The object as the owner of another.
pub(super) fn owner<T: Object>(object: &T) -> OwnerReference {
    OwnerReference {
        api_version: API_VERSION.to_owned(),
        kind: T::KIND.as_str().to_owned(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whether an object was made for this cluster, and not for one that had its name before.
pub(super) fn is_owned(cluster: &Cluster, metadata: &ObjectMeta) -> bool {
    metadata.owner_references.iter().flatten().any(|owner| Some(&owner.uid) == cluster.metadata.uid.as_ref())
}
