#!/usr/bin/env bash
# The cluster tests on kind: a cluster, the image on it, the real KubeRay chart, then the tests that make cluster-test
# runs on a cluster of its own. Needs docker, kind, kubectl, helm and access to the internet. KEEP=1 leaves the cluster
# for a look. ARGS goes to pytest.
set -euo pipefail
cd "$(dirname "$0")/../.."

CLUSTER=${CLUSTER:-trimode-test}
KUBERAY=${KUBERAY:-1.7.0}
IMAGE=trimode:$(sed -n 's/^appVersion: "\(.*\)"$/\1/p' charts/trimode/Chart.yaml)
# The registry that docs/install.md pushes to.
PUSHED=registry.example.com/models/$IMAGE
WORK=$(mktemp -d)
export KUBECONFIG=$WORK/kubeconfig

say() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }

missing() {
  echo "kind-test: $1 is not on the path; see docs/quickstart-kind.md" >&2
  exit 1
}

look() {
  echo "-- what there is, since something failed" >&2
  kubectl get nd,rayservices,pods,services --all-namespaces || true
  kubectl --namespace trimode-system logs --selector app.kubernetes.io/name=trimode-operator --tail 80 || true
}

away() {
  status=$?
  [[ $status -eq 0 ]] || look
  if [[ ${KEEP:-} ]]; then
    echo "kept: KUBECONFIG=$KUBECONFIG; remove with: kind delete cluster --name $CLUSTER"
  else
    kind delete cluster --name "$CLUSTER" || true
    rm -rf "$WORK"
  fi
  exit "$status"
}

for tool in docker kind kubectl helm curl; do
  command -v "$tool" >/dev/null || missing "$tool"
done
trap away EXIT

say "cluster $CLUSTER"
kind create cluster --name "$CLUSTER" --config charts/kind/cluster.yaml --wait 180s

say "image $IMAGE, with torch for CPUs"
docker build --file Containerfile --tag "$IMAGE" --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .
docker tag "$IMAGE" "$PUSHED"
kind load docker-image "$IMAGE" "$PUSHED" --name "$CLUSTER"

say "KubeRay $KUBERAY"
helm install kuberay-operator kuberay-operator --repo https://ray-project.github.io/kuberay-helm/ \
  --version "$KUBERAY" --namespace kuberay-system --create-namespace --wait --timeout 5m

say "tests"
TRIMODE_KUBECONFIG=$KUBECONFIG make cluster-test-real

say "done"
