path "sys/mounts/pki-*" { capabilities = ["create", "read", "update", "delete"] }
path "pki-*" { capabilities = ["create", "read", "update", "delete", "list"] }
path "sys/policies/acl/goliath-pki-*" { capabilities = ["create", "read", "update", "delete"] }
path "sys/auth" { capabilities = ["read"] }
path "auth/approle/role/goliath-*" { capabilities = ["create", "read", "update", "delete", "list"] }
path "identity/entity/name/goliath-*" { capabilities = ["create", "read", "update", "delete"] }
path "identity/entity-alias" { capabilities = ["create", "update"] }
path "identity/entity-alias/id/*" { capabilities = ["delete"] }
