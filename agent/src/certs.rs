//! Certificates: issued for guests, renewed while they run, laid into a volume.
