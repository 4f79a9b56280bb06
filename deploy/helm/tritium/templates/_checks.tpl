{{/* What a schema cannot say: values that do not go together, each with the way out. */}}
{{- define "tritium.checks" -}}
{{- $values := .Values -}}
{{- $most := ternary $values.replicas $values.autoscaling.maxReplicas (eq $values.autoscaling.kind "none") -}}
{{- $pvc := $values.repository.pvc -}}
{{- if eq $values.repository.source "objectStore" -}}
  {{- if not $values.repository.objectStore.uri -}}
    {{- fail "repository.source is objectStore, which needs repository.objectStore.uri (remote:bucket/folder)" -}}
  {{- end -}}
  {{- if $values.rollout.enabled -}}
    {{- fail "rollout needs one repository that all pods share: set repository.source to pvc, or change releases by repository.objectStore.uri" -}}
  {{- end -}}
{{- else if and (gt (int $most) 1) (not $pvc.existingClaim) (not (or (has "ReadWriteMany" $pvc.accessModes) (has "ReadOnlyMany" $pvc.accessModes))) -}}
  {{- fail (printf "%d pods cannot share a volume that is %s: repository.pvc.accessModes needs ReadWriteMany" (int $most) (join ", " $pvc.accessModes)) -}}
{{- end -}}
{{- if and $values.serve.traceEndpoint $values.networkPolicy.enabled (not $values.networkPolicy.egress) -}}
  {{- fail "serve.traceEndpoint lies behind the NetworkPolicy: let servers reach it with networkPolicy.egress" -}}
{{- end -}}
{{- if gt (int $values.autoscaling.minReplicas) (int $values.autoscaling.maxReplicas) -}}
  {{- fail "autoscaling.minReplicas is more than autoscaling.maxReplicas" -}}
{{- end -}}
{{- if and (eq (toString $values.update.maxUnavailable) "0") (eq (toString $values.update.maxSurge) "0") -}}
  {{- fail "update.maxUnavailable and update.maxSurge are both 0: no pod could ever be replaced" -}}
{{- end -}}
{{- if $values.envoy.enabled -}}
  {{- if not (or $values.envoy.tls.secretName $values.envoy.plainText) -}}
    {{- fail "envoy needs envoy.tls.secretName, or envoy.plainText=true where TLS ends elsewhere" -}}
  {{- end -}}
  {{- if not (.Files.Get "files/envoy/envoy.yaml") -}}
    {{- fail "files/envoy/envoy.yaml is not in this chart" -}}
  {{- end -}}
{{- end -}}
{{- if $values.rollout.enabled -}}
  {{- if not (and $values.rollout.app (or $values.rollout.release (eq $values.rollout.command "rollback"))) -}}
    {{- fail "rollout needs rollout.app and rollout.release" -}}
  {{- end -}}
  {{- if not $values.adminKey.secretName -}}
    {{- fail "rollout needs adminKey.secretName: the key that the servers' model control asks for" -}}
  {{- end -}}
{{- end -}}
{{- end -}}
