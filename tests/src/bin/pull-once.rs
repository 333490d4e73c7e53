//! One pull, in a process whose memory is measured.

use clap::Parser as _;
use goliath_lab::measured_pull::Order;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    Order::parse().carry_out().await
}
