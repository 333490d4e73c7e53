//! A cluster's network on this host: a namespace with bridge, VXLAN, taps and rules.
