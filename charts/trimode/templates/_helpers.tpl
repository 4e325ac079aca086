{{/* Name of everything the release makes: the release's name, with "trimode" in it. */}}
{{- define "trimode.fullname" -}}
{{- if contains "trimode" .Release.Name -}}
{{- .Release.Name | trunc 44 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-trimode" .Release.Name | trunc 44 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "trimode.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "trimode.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* The labels by which Services, budgets and policies find the operator's pods; fixed for the life of a release. */}}
{{- define "trimode.selector" -}}
app.kubernetes.io/name: trimode-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "trimode.labels" -}}
{{ include "trimode.selector" . }}
app.kubernetes.io/part-of: trimode
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "trimode.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The settings file: what the chart knows, overridden by .Values.settings. */}}
{{- define "trimode.settings" -}}
{{- $operator := dict
  "podLabels" (include "trimode.selector" . | fromYaml)
  "namespaceLabels" (dict "kubernetes.io/metadata.name" .Release.Namespace) -}}
{{- $known := dict
  "image" (include "trimode.image" .)
  "imagePullPolicy" .Values.image.pullPolicy
  "imagePullSecrets" .Values.image.pullSecrets
  "operator" $operator -}}
{{- merge (deepCopy .Values.settings) $known | toYaml -}}
{{- end -}}

{{/* Every container of this chart runs with this. */}}
{{- define "trimode.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* What the operator may do with resources and what it makes of them, in the namespaces it watches. */}}
{{- define "trimode.rules" -}}
# Its own resources: it reads them and marks them with its finalizer.
- apiGroups: [trimode.dev]
  resources: [nemotrondeployments]
  verbs: [get, list, watch, patch]
- apiGroups: [trimode.dev]
  resources: [nemotrondeployments/status]
  verbs: [patch]
# For ownerReferences that block deletion, where the cluster checks who may set them.
- apiGroups: [trimode.dev]
  resources: [nemotrondeployments/finalizers]
  verbs: [update]
# What it makes of a resource.
- apiGroups: [""]
  resources: [secrets, serviceaccounts, configmaps, services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [ray.io]
  resources: [rayservices]
  verbs: [get, list, watch, create, patch, delete]
# What KubeRay makes of it: bounds of running worker groups, and the end of an upgrade that is taken back.
- apiGroups: [ray.io]
  resources: [rayservices/status]
  verbs: [patch]
- apiGroups: [ray.io]
  resources: [rayclusters]
  verbs: [get, patch]
- apiGroups: [monitoring.coreos.com]
  resources: [servicemonitors]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [inference.networking.k8s.io]
  resources: [inferencepools]
  verbs: [get, list, watch, create, patch, delete]
# Where the routers are.
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
# Why a fleet's pods do not run, where they do not.
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
{{- end -}}
