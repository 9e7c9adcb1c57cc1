/*
 * StarPU's side, in StarPU's language: its interface is made of macros and structures that only its headers describe.
 *
 * One OpenCL worker, no other. The worker spins while it has nothing to do, so it is paused except in its own turns.
 * Everything returns 0, or a number that says where it went wrong.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <starpu.h>
#include <starpu_opencl.h>

#define GROUP 256
#define MOST_GROUPS 1024

static const char *const source =
	"__kernel void fill(__global float *out, unsigned len, float value) {\n"
	"    for (unsigned i = get_global_id(0); i < len; i += get_global_size(0)) out[i] = value;\n"
	"}\n"
	"__kernel void keep(__global float *out, unsigned len, float zero) {\n"
	"    for (unsigned i = get_global_id(0); i < len; i += get_global_size(0)) out[i] += zero;\n"
	"}\n";

static struct starpu_opencl_program program;
static int worker;

/* Runs a kernel of the program over a whole vector. */
static void run(const char *name, void *vector, float value)
{
	cl_mem out = (cl_mem)STARPU_VECTOR_GET_DEV_HANDLE(vector);
	cl_uint len = STARPU_VECTOR_GET_NX(vector);
	int device = starpu_worker_get_devid(starpu_worker_get_id_check());
	cl_kernel kernel;
	cl_command_queue queue;
	int failed = starpu_opencl_load_kernel(&kernel, &queue, &program, name, device);
	if (failed != CL_SUCCESS)
		STARPU_OPENCL_REPORT_ERROR(failed);
	failed = clSetKernelArg(kernel, 0, sizeof(out), &out);
	failed |= clSetKernelArg(kernel, 1, sizeof(len), &len);
	failed |= clSetKernelArg(kernel, 2, sizeof(value), &value);
	if (failed != CL_SUCCESS)
		STARPU_OPENCL_REPORT_ERROR(failed);
	size_t groups = (len + GROUP - 1) / GROUP;
	if (groups > MOST_GROUPS)
		groups = MOST_GROUPS;
	size_t local = GROUP, global = groups * GROUP;
	failed = clEnqueueNDRangeKernel(queue, kernel, 1, NULL, &global, &local, 0, NULL, NULL);
	if (failed != CL_SUCCESS)
		STARPU_OPENCL_REPORT_ERROR(failed);
	clFinish(queue);
	starpu_opencl_release_kernel(kernel);
}

static void fill(void *buffers[], void *value)
{
	run("fill", buffers[0], *(const float *)value);
}

static void keep(void *buffers[], void *nothing)
{
	(void)nothing;
	run("keep", buffers[0], 0.0f);
}

static struct starpu_codelet fill_codelet = {
	.opencl_funcs = {fill},
	.nbuffers = 1,
	.modes = {STARPU_W},
};

static struct starpu_codelet keep_codelet = {
	.opencl_funcs = {keep},
	.nbuffers = 1,
	.modes = {STARPU_RW},
};

static int submit(struct starpu_codelet *codelet, starpu_data_handle_t vector, float *value)
{
	struct starpu_task *task = starpu_task_create();
	task->cl = codelet;
	task->handles[0] = vector;
	task->cl_arg = value;
	task->cl_arg_size = value ? sizeof(*value) : 0;
	task->synchronous = 1;
	return starpu_task_submit(task);
}

/* Starts StarPU on one OpenCL device, and writes what that is into two texts. */
int rival_open(char *device, char *driver, size_t text_bytes)
{
	/* pocl's device is the processor, which StarPU leaves alone unless it is told otherwise. */
	setenv("STARPU_OPENCL_ON_CPUS", "1", 0);
	setenv("STARPU_SILENT", "1", 0);
	struct starpu_conf conf;
	starpu_conf_init(&conf);
	conf.ncpus = 0;
	conf.ncuda = 0;
	conf.nopencl = 1;
	if (starpu_init(&conf) != 0)
		return 1;
	worker = starpu_worker_get_by_type(STARPU_OPENCL_WORKER, 0);
	if (worker < 0)
		return 2;
	if (starpu_opencl_load_opencl_from_string(source, &program, NULL) != 0)
		return 3;
	cl_device_id id;
	starpu_opencl_get_device(starpu_worker_get_devid(worker), &id);
	char version[256] = "";
	char platform[256] = "";
	clGetDeviceInfo(id, CL_DEVICE_NAME, text_bytes, device, NULL);
	clGetDeviceInfo(id, CL_DEVICE_VERSION, sizeof(version), version, NULL);
	clGetDeviceInfo(id, CL_DRIVER_VERSION, sizeof(platform), platform, NULL);
	snprintf(driver, text_bytes, "%s, %s", version, platform);
	starpu_pause();
	return 0;
}

void rival_version(int *major, int *minor, int *release)
{
	starpu_get_version(major, minor, release);
}

void rival_pause(void)
{
	starpu_pause();
}

void rival_resume(void)
{
	starpu_resume();
}

/* A vector in memory that StarPU allocates, so that it may be pinned; `host` is where the application finds it. */
int rival_array(uint32_t len, void **handle, float **host)
{
	if (starpu_malloc((void **)host, len * sizeof(float)) != 0)
		return 1;
	memset(*host, 0, len * sizeof(float));
	starpu_vector_data_register((starpu_data_handle_t *)handle, STARPU_MAIN_RAM,
				    (uintptr_t)*host, len, sizeof(float));
	return 0;
}

/* Forgets the vector, whatever the device wrote, and frees its memory. */
void rival_drop(void *handle, float *host)
{
	starpu_data_unregister_no_coherency(handle);
	starpu_free(host);
}

/* Takes the vector for the application: to read, or to overwrite. */
int rival_acquire(void *handle, int overwrite)
{
	return starpu_data_acquire(handle, overwrite ? STARPU_W : STARPU_R);
}

void rival_release(void *handle)
{
	starpu_data_release(handle);
}

/* Brings the vector to the device, and waits. */
int rival_fetch(void *handle)
{
	return starpu_data_fetch_on_node(handle, starpu_worker_get_memory_node(worker), 0);
}

/* 1 when the device has a good copy. */
int rival_is_fetched(void *handle)
{
	int allocated = 0, valid = 0, requested = 0;
	starpu_data_query_status(handle, starpu_worker_get_memory_node(worker), &allocated,
				 &valid, &requested);
	return valid;
}

int rival_fill(void *handle, float value)
{
	return submit(&fill_codelet, handle, &value);
}

/* Has the device write back what it holds, so that no other copy is good. */
int rival_keep(void *handle)
{
	return submit(&keep_codelet, handle, NULL);
}
