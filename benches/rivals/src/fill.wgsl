// Writes one value to every element: one thread goes on in strides of the whole grid.

struct Arguments {
    value: f32,
    len: u32,
    stride: u32,
}

@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@group(0) @binding(1) var<uniform> arguments: Arguments;

@compute @workgroup_size(256)
fn fill(@builtin(global_invocation_id) id: vec3<u32>) {
    for (var i = id.x; i < arguments.len; i += arguments.stride) {
        out[i] = arguments.value;
    }
}
