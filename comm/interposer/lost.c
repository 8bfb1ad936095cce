#include "lost.h"

#include "door.h"
#include "requests.h"

enum { MOST_CLASSES = 4 };

static struct {
    PyTypeObject *type;
    newfunc begin;
    traverseproc traverse;
    inquiry clear;
    destructor end;
} classes[MOST_CLASSES];
static int class_count;
static Py_ssize_t handle_offset;

/* The class of mpi4py's that a type is or is derived from. */
static int class_of(const PyTypeObject *type)
{
    for (; type != NULL; type = type->tp_base)
        for (int i = 0; i < class_count; i++)
            if (classes[i].type == type)
                return i;
    return 0;
}

static MPI_Request *handle_of(PyObject *object)
{
    return (MPI_Request *)((char *)object + handle_offset);
}

static struct operation *operation_of(PyObject *object)
{
    if (atomic_load_explicit(&operations_under_way, memory_order_relaxed) == 0)
        return NULL;
    return claim(*handle_of(object));
}

/* An object may be made of another one: both have the same request. */
static PyObject *begin_request(PyTypeObject *type, PyObject *arguments, PyObject *named)
{
    PyObject *object = classes[class_of(type)].begin(type, arguments, named);
    struct operation *operation = object == NULL ? NULL : operation_of(object);
    if (operation != NULL) {
        operation->copies++;
        unclaim(operation);
    }
    return object;
}

/* Objects that a request keeps are no garbage while its operation goes on, even if the request is: the
 * collector would clear them before the request ends. */
static int traverse_request(PyObject *object, visitproc visit, void *argument)
{
    if (is_home(handle_of(object)))
        return 0;
    return classes[class_of(Py_TYPE(object))].traverse(object, visit, argument);
}

/* The collector takes it from the request. */
static int clear_request(PyObject *object)
{
    struct operation *operation = operation_of(object);
    if (operation != NULL) {
        own_borrowed(operation);
        unclaim(operation);
    }
    return classes[class_of(Py_TYPE(object))].clear(object);
}

/* With its last object, an operation goes on as one whose request the program has freed. Other objects may
 * have its request, too: made from a handle, or left from an earlier request that had the same one. */
static void end_request(PyObject *object)
{
    struct operation *operation = operation_of(object);
    if (operation != NULL) {
        if (operation->home == handle_of(object))
            operation->home = NULL;
        else if (operation->copies > 0)
            operation->copies--;
        if (operation->home == NULL && operation->copies == 0)
            orphan(operation);
        else
            unclaim(operation);
    }
    classes[class_of(Py_TYPE(object))].end(object);
}

void watch_class(PyTypeObject *type, Py_ssize_t offset)
{
    if (class_count == MOST_CLASSES || type->tp_dealloc == end_request)
        return;
    classes[class_count].type = type;
    classes[class_count].begin = type->tp_new;
    classes[class_count].traverse = type->tp_traverse;
    classes[class_count].clear = type->tp_clear;
    classes[class_count++].end = type->tp_dealloc;
    handle_offset = offset;
    type->tp_new = begin_request;
    if (type->tp_traverse != NULL && type->tp_clear != NULL) {
        type->tp_traverse = traverse_request;
        type->tp_clear = clear_request;
    }
    type->tp_dealloc = end_request;
}
