//! Clusters' networks on two hosts, in the real kernel: who reaches whom, who does not, and what stays right.

mod networks {
    mod cost;
    mod egress;
    mod host;
    mod life;
    mod reach;
    mod repair;
    mod spoofing;
}
