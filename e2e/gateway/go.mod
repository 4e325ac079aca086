module trimode.dev/e2e/gateway

go 1.27.0

toolchain go1.27.3

require (
	sigs.k8s.io/gateway-api v1.4.0
	sigs.k8s.io/gateway-api-inference-extension v1.2.0
)
