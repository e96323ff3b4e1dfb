// CoreDNS with the plugins that the cluster's Corefile names.
//
// CoreDNS' own program has every plugin, among them clients of four clouds: a thousand packages that nothing here runs.
package main

import (
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
)

func main() {
	coremain.Run()
}
