//! Images: fetched from registries and layouts, checked, kept by digest.
