// The lab's Vault: HashiCorp's own core and HTTP handler with the engines that the lab needs, for machines that have
// no `vault` installed.
//
// It takes the arguments of the real program, `vault server -config=FILE`, and reads the same JSON configuration file,
// so that the lab starts either of them in the same way.
package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	aead "github.com/hashicorp/go-kms-wrapping/v2/aead"
	"github.com/hashicorp/vault/audit"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/logical/pki"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical"
	"github.com/hashicorp/vault/sdk/physical/file"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
	"github.com/hashicorp/vault/vault/seal"
	"github.com/hashicorp/vault/version"
)

// The part of Vault's configuration file that the lab writes.
type configuration struct {
	Storage  map[string]map[string]string `json:"storage"`
	Listener struct {
		TCP struct {
			Address    string `json:"address"`
			TLSDisable bool   `json:"tls_disable"`
			TLSCert    string `json:"tls_cert_file"`
			TLSKey     string `json:"tls_key_file"`
		} `json:"tcp"`
	} `json:"listener"`
	APIAddress   string `json:"api_addr"`
	DisableMlock bool   `json:"disable_mlock"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "vault:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) > 0 && arguments[0] == "version" {
		fmt.Println(version.GetVersion().FullVersionNumber(true))
		return nil
	}
	if len(arguments) == 0 || arguments[0] != "server" {
		return errors.New("usage: vault version | vault server -config=FILE.json")
	}
	flags := flag.NewFlagSet("server", flag.ContinueOnError)
	path := flags.String("config", "", "configuration file, JSON")
	if err := flags.Parse(arguments[1:]); err != nil {
		return err
	}
	config, err := read(*path)
	if err != nil {
		return err
	}
	return serve(config)
}

func read(path string) (*configuration, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	config := new(configuration)
	if err := json.Unmarshal(content, config); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return config, nil
}

func serve(config *configuration) error {
	logger := hclog.New(&hclog.LoggerOptions{Name: "vault", Level: hclog.Info, Output: os.Stderr})
	storage, err := openStorage(config.Storage, logger)
	if err != nil {
		return err
	}
	access, err := seal.NewAccessFromWrapper(logger, aead.NewShamirWrapper(), vault.SealConfigTypeShamir.String())
	if err != nil {
		return err
	}
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical:           storage,
		Seal:               vault.NewDefaultSeal(access),
		Logger:             logger,
		DisableMlock:       config.DisableMlock,
		RedirectAddr:       config.APIAddress,
		BuiltinRegistry:    engines{},
		AuditBackends:      map[string]audit.Factory{"file": audit.NewFileBackend},
		CredentialBackends: map[string]logical.Factory{"approle": approle.Factory},
		LogicalBackends:    map[string]logical.Factory{"pki": pki.Factory},
	})
	if err != nil {
		return err
	}
	tcp := config.Listener.TCP
	listener, err := net.Listen("tcp", tcp.Address)
	if err != nil {
		return err
	}
	state := "disabled"
	if !tcp.TLSDisable {
		pair, err := tls.LoadX509KeyPair(tcp.TLSCert, tcp.TLSKey)
		if err != nil {
			return err
		}
		state = "enabled"
		listener = tls.NewListener(listener, &tls.Config{
			Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		})
	}
	// The address that was bound, in the words of the real program: the lab reads it from here.
	fmt.Printf("Listener 1: tcp (addr: %q, tls: %q)\n", listener.Addr(), state)
	fmt.Println("==> Vault server started! Log data will stream in below:")

	server := &http.Server{
		Handler: vaulthttp.Handler.Handler(&vault.HandlerProperties{
			Core: core,
			ListenerConfig: &configutil.Listener{
				Type: "tcp", Address: listener.Addr().String(), MaxRequestSize: vaulthttp.DefaultMaxRequestSize,
			},
		}),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          logger.StandardLogger(nil),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()

	asked := make(chan os.Signal, 1)
	signal.Notify(asked, os.Interrupt, syscall.SIGTERM)
	select {
	case err := <-failed:
		return err
	case <-asked:
		_ = server.Close()
		return core.Shutdown()
	}
}

func openStorage(kinds map[string]map[string]string, logger hclog.Logger) (physical.Backend, error) {
	for kind, settings := range kinds {
		switch kind {
		case "file":
			return file.NewFileBackend(settings, logger)
		case "inmem":
			return inmem.NewInmem(settings, logger)
		default:
			return nil, fmt.Errorf("storage %q is not built in: file, inmem", kind)
		}
	}
	return nil, errors.New("the configuration names no storage")
}

// Which engines are built in; Vault asks for each by name when it is mounted.
type engines struct{}

func (engines) factory(name string, kind consts.PluginType) (logical.Factory, bool) {
	switch {
	case name == "approle" && kind == consts.PluginTypeCredential:
		return approle.Factory, true
	case name == "pki" && kind == consts.PluginTypeSecrets:
		return pki.Factory, true
	}
	return nil, false
}

func (e engines) Contains(name string, kind consts.PluginType) bool {
	_, known := e.factory(name, kind)
	return known
}

func (e engines) Get(name string, kind consts.PluginType) (func() (interface{}, error), bool) {
	factory, known := e.factory(name, kind)
	return func() (interface{}, error) { return factory, nil }, known
}

func (engines) Keys(kind consts.PluginType) []string {
	switch kind {
	case consts.PluginTypeCredential:
		return []string{"approle"}
	case consts.PluginTypeSecrets:
		return []string{"pki"}
	default:
		return nil
	}
}

func (e engines) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, e.Contains(name, kind)
}

func (engines) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
