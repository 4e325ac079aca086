module trimode.dev/e2e/keda

go 1.27.0

toolchain go1.27.3

require github.com/kedacore/keda/v2 v2.21.0
