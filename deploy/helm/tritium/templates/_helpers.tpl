{{- define "tritium.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "tritium.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "tritium.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "tritium.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "tritium.headless" -}}
{{- include "tritium.fullname" . }}-headless
{{- end -}}

{{/* What selects pods: (list $ "server"). It never changes. */}}
{{- define "tritium.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "tritium.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "tritium.labels" -}}
{{- $root := index . 0 -}}
{{ include "tritium.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end -}}

{{- define "tritium.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "tritium.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* An image by digest, or else by tag: (list $image $default_tag). */}}
{{- define "tritium.image" -}}
{{- $image := index . 0 -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default (index . 1) $image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "tritium.claim" -}}
{{- default (printf "%s-repository" (include "tritium.fullname" .)) .Values.repository.pvc.existingClaim -}}
{{- end -}}

{{/* Of every pod. */}}
{{- define "tritium.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Of every container. */}}
{{- define "tritium.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where a pod may run. */}}
{{- define "tritium.placement" -}}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/*
The admin key has to be a file that its owner alone can read. A Secret's file is root's, and with
fsGroup it becomes readable by the group (0440), so that the key is copied first.
*/}}
{{- define "tritium.copyKey" -}}
- name: admin-key
  image: {{ include "tritium.image" (list .Values.image .Chart.AppVersion) }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [install, -m, "0600", /secret/{{ .Values.adminKey.key }}, /run/tritium/admin.key]
  securityContext: {{- include "tritium.containerSecurity" . | nindent 4 }}
  resources: {requests: {cpu: 50m, memory: 32Mi}, limits: {memory: 64Mi}}
  volumeMounts:
    - {name: admin-secret, mountPath: /secret, readOnly: true}
    - {name: admin-key, mountPath: /run/tritium}
{{- end -}}

{{- define "tritium.keyVolumes" -}}
- name: admin-secret
  secret:
    secretName: {{ .Values.adminKey.secretName }}
    defaultMode: 0400
- name: admin-key
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
{{- end -}}
