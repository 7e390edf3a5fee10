"""An operator as a user writes one: it keeps its weight transposed."""

from kt_cli.embedded.operators import BaseInjectedModule, KLinearBase


class OwnLinear(BaseInjectedModule, KLinearBase):
    def __init__(
        self,
        key,
        gguf_loader,
        config,
        orig_module=None,
        generate_device="cuda",
        my_param=0,
        **kwargs,
    ):
        super().__init__(key, gguf_loader, config, orig_module, generate_device, **kwargs)
        KLinearBase.__init__(self)
        self.my_param = my_param
        self.calls = 0
        self.w = None
        self.bias = None

    def load(self, w=None, device=None):
        loaded = self.load_weight(device=device or self.device) if w is None else w
        weight, self.bias = loaded if isinstance(loaded, tuple) else (loaded, None)
        self.w = weight.view(self.out_features, self.in_features).T

    def unload(self):
        self.w = self.bias = None

    def forward(self, x):
        self.calls += 1
        y = x @ self.w
        return y if self.bias is None else y + self.bias


class NotAnOperator:
    pass
