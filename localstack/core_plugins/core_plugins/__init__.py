"""Plug-ins for LocalStack's open-source core: functions as processes of this machine, and custom resources.

LocalStack finds them by the entry points beside this package, once the folder above is on its PYTHONPATH.

- `executor` runs functions where there is no Docker; LocalStack uses it when LAMBDA_RUNTIME_EXECUTOR is `processes`.
  `sandbox` is its execution environment, and knows nothing of LocalStack.
- `custom_resource` is `AWS::CloudFormation::CustomResource`, which only LocalStack's image has.
"""
