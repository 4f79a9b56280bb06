{{/* The pod of a server. */}}
{{- define "tritium.serverPod" -}}
serviceAccountName: {{ include "tritium.serviceAccount" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- if and (eq .Values.target "gpu") .Values.gpu.runtimeClassName }}
runtimeClassName: {{ .Values.gpu.runtimeClassName }}
{{- end }}
# preStop, the drain, and what tritonserver takes to end: nothing in flight is killed.
terminationGracePeriodSeconds: {{ add .Values.drain.preStopSeconds .Values.drain.timeoutSeconds 15 }}
securityContext: {{- include "tritium.podSecurity" . | nindent 2 }}
{{- include "tritium.placement" . }}
topologySpreadConstraints:
  {{- range .Values.topologySpread.keys }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: {{ $.Values.topologySpread.whenUnsatisfiable }}
    labelSelector:
      matchLabels: {{- include "tritium.selector" (list $ "server") | nindent 8 }}
    # Pods of the former revision do not count, or a rolling update would end lopsided.
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- $inits := include "tritium.initContainers" . }}
{{- with trim $inits }}
initContainers: {{- . | nindent 2 }}
{{- end }}
containers:
  - name: serve
    image: {{ include "tritium.image" (list .Values.image .Chart.AppVersion) }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    command: [tritium]
    args: {{- include "tritium.serveArguments" . | nindent 6 }}
    {{- with .Values.env }}
    env: {{- toYaml . | nindent 6 }}
    {{- end }}
    ports:
      - {name: grpc, containerPort: 8001}
      - {name: metrics, containerPort: 8002}
      - {name: ready, containerPort: 8003}
    # Ready is what answers its golden samples; Triton's own readiness does not see dead processes.
    startupProbe:
      httpGet: {path: /ready, port: ready}
      periodSeconds: 2
      timeoutSeconds: 2
      failureThreshold: {{ div (add .Values.startSeconds 1) 2 }}
    readinessProbe:
      httpGet: {path: /ready, port: ready}
      periodSeconds: 2
      timeoutSeconds: 2
      failureThreshold: 2
    livenessProbe:
      httpGet: {path: /live, port: ready}
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 3
    lifecycle:
      # Endpoints are withdrawn while requests are still taken; then SIGTERM drains.
      preStop:
        sleep: {seconds: {{ .Values.drain.preStopSeconds }}}
    securityContext: {{- include "tritium.containerSecurity" . | nindent 6 }}
    resources: {{- include "tritium.resources" . | nindent 6 }}
    volumeMounts:
      - {name: repository, mountPath: /models, readOnly: true}
      - {name: tmp, mountPath: /tmp}
      - {name: shm, mountPath: /dev/shm}
      {{- if .Values.adminKey.secretName }}
      - {name: admin-key, mountPath: /run/tritium, readOnly: true}
      {{- end }}
      {{- if .Values.serve.tuning }}
      - {name: tuning, mountPath: /etc/tritium/tuning, readOnly: true}
      {{- end }}
volumes:
  {{- if eq .Values.repository.source "pvc" }}
  - name: repository
    persistentVolumeClaim: {claimName: {{ include "tritium.claim" . }}}
  {{- else }}
  - name: repository
    emptyDir: {sizeLimit: {{ .Values.repository.objectStore.sizeLimit }}}
  {{- end }}
  # Triton's log, and its backends with this Python's stub.
  - name: tmp
    emptyDir: {sizeLimit: 1Gi}
  - name: shm
    emptyDir: {medium: Memory, sizeLimit: {{ .Values.sharedMemory }}}
  {{- if .Values.adminKey.secretName }}
  {{- include "tritium.keyVolumes" . | nindent 2 }}
  {{- end }}
  {{- if .Values.serve.tuning }}
  - name: tuning
    configMap: {name: {{ include "tritium.fullname" . }}-tuning}
  {{- end }}
{{- end -}}

{{- define "tritium.serveArguments" -}}
- serve
- --repository=/models
- --host=0.0.0.0
- --drain-timeout={{ .Values.drain.timeoutSeconds }}
- --json
{{- range .Values.apps }}
- --app={{ . }}
{{- end }}
{{- range $app, $_ := .Values.serve.tuning }}
- --tuning=/etc/tritium/tuning/{{ $app }}.tuning.toml
{{- end }}
{{- with .Values.serve.responseCacheMiB }}
- --response-cache={{ . }}
{{- end }}
{{- with .Values.serve.traceEndpoint }}
- --trace-endpoint={{ . }}
- --trace-rate={{ $.Values.serve.traceRate }}
{{- end }}
{{- if .Values.serve.router }}
- --router
{{- end }}
{{- if .Values.adminKey.secretName }}
- --admin-key-file=/run/tritium/admin.key
{{- end }}
{{- end -}}

{{/* Its resources, with the GPU or the slice of one that it gets for itself. */}}
{{- define "tritium.resources" -}}
{{- $resources := deepCopy .Values.resources -}}
{{- if eq .Values.target "gpu" -}}
{{- $limits := merge (dict .Values.gpu.resource .Values.gpu.count) (default dict $resources.limits) -}}
{{- $_ := set $resources "limits" $limits -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{- define "tritium.initContainers" -}}
{{- if eq .Values.repository.source "objectStore" }}
- name: copy
  image: {{ include "tritium.image" (list .Values.repository.objectStore.image "") }}
  args: [sync, --checksum, --transfers=8, --config=/dev/null, {{ .Values.repository.objectStore.uri | quote }}, /models]
  {{- with .Values.repository.objectStore.secretName }}
  envFrom:
    - secretRef: {name: {{ . }}}
  {{- end }}
  securityContext: {{- include "tritium.containerSecurity" . | nindent 4 }}
  resources: {requests: {cpu: 200m, memory: 128Mi}, limits: {memory: 512Mi}}
  volumeMounts:
    - {name: repository, mountPath: /models}
    - {name: tmp, mountPath: /tmp}
{{- end }}
{{- if .Values.repository.verify }}
- name: verify
  image: {{ include "tritium.image" (list .Values.image .Chart.AppVersion) }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [tritium]
  args:
    - verify
    - --repository=/models
    - --json
    {{- range .Values.apps }}
    - --app={{ . }}
    {{- end }}
  securityContext: {{- include "tritium.containerSecurity" . | nindent 4 }}
  resources: {requests: {cpu: 200m, memory: 256Mi}, limits: {memory: 1Gi}}
  volumeMounts:
    - {name: repository, mountPath: /models, readOnly: true}
    - {name: tmp, mountPath: /tmp}
{{- end }}
{{- if .Values.adminKey.secretName }}
{{ include "tritium.copyKey" . }}
{{- end }}
{{- end -}}
