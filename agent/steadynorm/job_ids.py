"""The job in which a process runs, by the variables that schedulers set. Shown with the run, as tags."""

from collections.abc import Mapping


def job_ids(environ: Mapping[str, str], host: str) -> dict[str, str]:
    """`slurm_job`, as `sacct` and `scancel` take it; in Kubernetes `kubernetes_pod`, as `kubectl` does.

    Args:
        environ: The process's variables.
        host: Its host name, which in Kubernetes is the pod's name.
    """
    found = {}
    if job := environ.get("SLURM_JOB_ID"):
        array, task = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
        found["slurm_job"] = f"{array}_{task}" if array and task else job
    if environ.get("KUBERNETES_SERVICE_HOST"):
        found["kubernetes_pod"] = host
    return found
