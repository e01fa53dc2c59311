"""The workloads of the project's own corpora: networks, and operators by themselves."""

from cwm_jax.tvm_bridge.corpus_tasks import TaskPlan
from cwm_jax.workloads.networks import parse_network
from cwm_jax.workloads.parse import parse_workload

# Held out whenever a model is judged by network, so none of their tasks is left out.
HELD_OUT_NETWORKS = ("resnet-50", "mobilenet-v2", "resnext-50", "bert-base", "bert-tiny")

_NETWORKS = (
    *(f"{name}:1,NHWC" for name in HELD_OUT_NETWORKS),
    *("resnet-18:1,NHWC", "resnet-18:4,NHWC", "resnet-18:1,NCHW"),
    *("wide-resnet-50:1,NHWC", "wide-resnet-50:1,NCHW"),
    *("mobilenet-v1:1,NHWC", "mobilenet-v1:4,NHWC", "mobilenet-v1:1,NCHW"),
    *("mnasnet-b1:1,NHWC", "mnasnet-b1:1,NCHW", "mnasnet-b1:4,NHWC"),
    *("regnet-x-800mf:1,NHWC", "regnet-x-800mf:1,NCHW"),
    *("densenet-121:1,NHWC", "densenet-121:4,NHWC", "densenet-121:1,NCHW"),
    *("inception-v3:1,NHWC", "inception-v3:4,NHWC", "inception-v3:1,NCHW"),
    *("vgg-16:1,NHWC", "vgg-16:1,NCHW", "vgg-16:4,NHWC"),
    *("squeezenet:1,NHWC", "squeezenet:16,NHWC", "squeezenet:1,NCHW"),
    *("dcgan:1", "dcgan:4", "dcgan:16"),
    *("bert-large:1", "bert-large:4", "gpt2-small:1", "gpt2-small:4"),
    *("vit-small:1", "vit-small:4", "lstm:1", "lstm:4", "lstm:16", "mlp:1", "mlp:4", "mlp:16"),
)
# Other shapes than the Ansor paper's: those are kept to judge a search.
_WORKLOADS = (
    *("matmul:128,128,128", "matmul:256,1024,256", "matmul:1024,1024,512", "matmul:16,2048,512"),
    *("matmul:768,768,768", "matmul:1,1000,2048", "matmul:384,384,1536", "matmul:64,4096,64"),
    *("dense:4,512,1000", "dense:64,1024,1024", "dense:1,4096,1024", "dense:32,256,256"),
    *("batch_matmul:8,64,64,64", "batch_matmul:16,256,256,32", "batch_matmul:1,512,512,128"),
    *("transpose_batch_matmul:1,64,8,64", "transpose_batch_matmul:1,256,12,64"),
    *("transpose_batch_matmul:4,128,4,32", "transpose_batch_matmul:1,384,16,64"),
    *("conv1d:1,512,64,64,3,1,1", "conv1d:1,1024,32,64,5,2,2", "conv1d:4,128,256,256,3,1,1"),
    *("conv1d:1,2048,16,32,7,2,3", "conv1d:1,96,512,256,1,1,0"),
    *("conv2d:1,28,28,96,96,3,1,1", "conv2d:1,112,112,24,48,3,2,1", "conv2d:1,40,40,64,256,1,1,0"),
    *("conv2d:1,20,20,192,192,3,1,1,NCHW", "conv2d:2,14,14,384,128,1,1,0"),
    *("conv2d:1,10,10,512,512,3,1,1", "conv2d:1,160,160,3,32,3,2,1", "conv2d:1,32,32,48,64,5,1,2"),
    *("conv2d_bias_relu:1,48,48,64,64,3,1,1", "conv2d_bias_relu:1,24,24,128,256,3,2,1"),
    *("conv2d_bias_relu:1,96,96,16,32,3,1,1,NCHW", "conv2d_bias_relu:1,12,12,512,512,1,1,0"),
    *("dilated_conv2d:1,32,32,64,64,3,1,2,2", "dilated_conv2d:1,64,64,32,64,3,1,4,4"),
    *("dilated_conv2d:1,24,24,256,256,3,1,2,2", "dilated_conv2d:1,16,16,384,128,3,2,2,2"),
    *("group_conv2d:1,32,32,128,128,3,1,1,8", "group_conv2d:1,16,16,256,256,3,1,1,32"),
    *("group_conv2d:1,64,64,64,128,3,2,1,4", "group_conv2d:1,8,8,512,512,3,1,1,16"),
    *("depthwise_conv2d:1,96,96,48,3,1,1", "depthwise_conv2d:1,40,40,240,5,2,2"),
    *("depthwise_conv2d:1,20,20,480,3,1,1", "depthwise_conv2d:1,80,80,72,5,1,2,NCHW"),
    *("depthwise_conv2d:4,28,28,192,3,1,1", "depthwise_conv2d:1,10,10,960,5,1,2"),
    *("transposed_conv2d:1,8,8,384,192,4,2,1", "transposed_conv2d:1,16,16,128,64,4,2,1"),
    *("transposed_conv2d:1,24,24,96,48,4,2,1", "transposed_conv2d:2,6,6,256,256,3,2,1"),
    *(
        "conv3d:1,8,28,28,64,64,3,1,1",
        "conv3d:1,16,56,56,3,32,3,2,1",
        "conv3d:1,4,14,14,256,256,1,1,0",
    ),
    *("conv3d:1,8,14,14,128,128,3,1,1", "capsule_conv2d:1,12,12,16,32,3,1,1,4"),
    *("capsule_conv2d:1,8,8,32,32,3,1,1,4", "capsule_conv2d:1,24,24,8,16,3,2,1,4"),
    *("norm:1,512,512", "norm:8,256,128", "norm:16,64,1024", "norm:1,1024,64"),
    *("softmax:256,512", "softmax:64,4096", "softmax:4096,64", "softmax:1536,128"),
)


def default_plan() -> TaskPlan:
    """Returns the plan of `cwm collect`."""
    return TaskPlan(
        networks=tuple(parse_network(text) for text in _NETWORKS),
        workloads=tuple((text, parse_workload(text)) for text in _WORKLOADS),
        whole_networks=tuple(str(parse_network(f"{name}:1,NHWC")) for name in HELD_OUT_NETWORKS),
    )
