//! The agent's gRPC API: converts, authorises, writes desired state, returns.
