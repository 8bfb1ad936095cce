#include "arrays.h"

#include "ask.h"
#include "door.h"
#include "frame.h"

#include <string.h>

int (*next_get_buffer)(PyObject *, Py_buffer *, int);
char lacking_formats[8];

enum { MOST_DIMENSIONS = 64, WIDEST_ALIGNMENT = 8 };

/* Whether the elements lie on boundaries of their size. */
static bool is_aligned(const Py_buffer *view)
{
    if (LIKELY(((uintptr_t)view->buf & (WIDEST_ALIGNMENT - 1)) == 0))
        return true;
    const uintptr_t boundary = (uintptr_t)(view->itemsize & -view->itemsize);
    const uintptr_t needed = boundary < WIDEST_ALIGNMENT ? boundary : WIDEST_ALIGNMENT;
    return needed < 2 || ((uintptr_t)view->buf & (needed - 1)) == 0;
}

/* The format of elements on their boundaries. NumPy marks others, for which mpi4py finds no datatype, and
 * calls them by their size, whether they are long or long long. */
static const char *native_format(PyObject *owner, const char *format)
{
    const bool is_signed = strcmp(format, "q") == 0;
    if (!is_signed && strcmp(format, "Q") != 0)
        return format;
    PyObject *dtype = PyObject_GetAttrString(owner, "dtype");
    PyObject *code = dtype == NULL ? NULL : PyObject_GetAttrString(dtype, "char");
    const bool is_long = code == NULL || PyUnicode_CompareWithASCIIString(code, format) != 0;
    PyErr_Clear();
    Py_XDECREF(dtype);
    Py_XDECREF(code);
    return is_long ? (is_signed ? "l" : "L") : format;
}

static void note_extent(const Py_buffer *view)
{
    struct frame *frame = current;
    if (frame->extent_count < 2)
        frame->extents[frame->extent_count++] = (struct extent){view->buf, view->len};
}

/* The record of the array that a view is of; NULL with an exception. */
static struct array *array_behind(Py_buffer *view, bool receives)
{
    int64_t shape[MOST_DIMENSIONS], strides[MOST_DIMENSIONS];
    if (view->ndim > MOST_DIMENSIONS) {
        PyErr_Format(PyExc_ValueError, "message: expected at most %d dimensions, got %d", MOST_DIMENSIONS,
                     view->ndim);
        return NULL;
    }
    for (int i = 0; i < view->ndim; i++) {
        shape[i] = view->shape[i];
        strides[i] = view->strides[i];
    }
    /* Of a type that has none, and whose datatype the program names. */
    const char *format = view->format == NULL ? "V" : view->format;
    if (format[0] == '=' || format[0] == '^')
        format = view->format = (char *)native_format(view->obj, format + 1);
    struct array *array = array_of(view->ndim, shape, strides, view->itemsize, format);
    if (array == NULL || !receives || !array->program->overlaps)
        return array;
    give_array_back(array);
    PyObject *error = PyObject_CallMethod(answers, "overlap_error", "O", view->obj);
    if (error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
    return NULL;
}

/* Keep an exception for the program: mpi4py goes on to other ways of reading an object, whose refusals say
 * less. */
static void keep_error(struct frame *frame)
{
    Py_XSETREF(*(PyObject **)&frame->error, take_exception());
}

/* Let mpi4py take an array for contiguous, and remember for the call that follows where its elements are. */
static int accept(Py_buffer *view, bool receives, PyObject *stage, bool is_dense)
{
    struct frame *frame = current;
    if (checks_bounds)
        note_extent(view);
    if (view->len == 0)
        return 0;
    if (stage == NULL && frame->engages && PyBuffer_IsContiguous(view, 'A') && is_aligned(view))
        return 0;
    struct array *array = stage == NULL ? array_behind(view, receives) : NULL;
    if (stage == NULL && array == NULL) {
        PyBuffer_Release(view);
        return -1;
    }
    struct strided *strided = receives ? &frame->received : &frame->sent;
    clear_strided(strided);
    Py_XINCREF(stage);
    *strided = (struct strided){view->buf, view->len, view->obj, array, stage, is_dense};
    frame->special = true;
    return 0;
}

void release_strided(struct strided *strided)
{
    give_array_back(strided->array);
    Py_XDECREF((PyObject *)strided->python);
    *strided = (struct strided){0};
}

/* Whether elements of a format hold references to objects of Python: names of fields stand between colons. */
static bool has_objects(const char *format)
{
    bool is_name = false;
    for (; format != NULL && *format != '\0'; format++) {
        if (*format == ':')
            is_name = !is_name;
        else if (*format == 'O' && !is_name)
            return true;
    }
    return false;
}

/* Whether MPI has no type for elements of a format that ours reduce. */
static bool lacks_type(const Py_buffer *view, int flags)
{
    return current->reduces && flags & PyBUF_FORMAT && view->format != NULL && view->format[0] != '\0' &&
           view->format[1] == '\0' && strchr(lacking_formats, view->format[0]) != NULL;
}

/* Read an object that may have gaps, without an exception. */
static bool read_with_strides(PyObject *object, Py_buffer *view, int flags)
{
    const int wanted = PyBUF_STRIDES | (flags & PyBUF_WRITABLE);
    bool read = next_get_buffer(object, view, wanted | PyBUF_FORMAT) == 0;
    /* NumPy has no format for times. */
    if (!read && !(flags & PyBUF_FORMAT)) {
        PyErr_Clear();
        read = next_get_buffer(object, view, wanted) == 0;
    }
    if (!read)
        PyErr_Clear();
    /* Where mpi4py finds the datatype, it refuses references; where the program names one, they would be
     * copied. */
    if (read && ((!(flags & PyBUF_FORMAT) && has_objects(view->format)) || lacks_type(view, flags))) {
        PyBuffer_Release(view);
        return false;
    }
    return read;
}

/* Python's answer for an object that is not read by the buffer protocol. */
struct converted {
    /* Of memory that is a stage: the object with `load` and `store`. */
    PyObject *stage;
    int is_dense;
};

/* Read what Python makes of an object, such as an array on a GPU: memory, the format of its elements where it
 * does not say that itself, and the array where the engine needs it. False with or without an exception. */
static bool read_converted(PyObject *object, Py_buffer *view, int flags, struct converted *converted)
{
    struct frame *frame = current;
    const bool receives = (flags & PyBUF_WRITABLE) == PyBUF_WRITABLE;
    PyObject *answer =
        PyObject_CallMethod(answers, "array_like", "Oiii", object, receives, frame->engages, frame->reduces);
    if (answer == NULL)
        return false;
    PyObject *memory, *stage, *array;
    const char *format = NULL;
    bool read = answer != Py_None &&
                PyArg_ParseTuple(answer, "OOzpO", &memory, &stage, &format, &converted->is_dense, &array) &&
                read_with_strides(memory, view, flags);
    if (read && format != NULL)
        view->format = (char *)format;
    if (read && stage != Py_None)
        converted->stage = Py_NewRef(stage);
    if (read && array != Py_None)
        Py_XSETREF(*(PyObject **)(receives ? &frame->received_array : &frame->sent_array), Py_NewRef(array));
    Py_DECREF(answer);
    return read;
}

/* Read an object with gaps, or one that Python must convert first; -1 with the exception that there is where
 * it is neither. */
static int read_strided(PyObject *object, Py_buffer *view, int flags, bool is_dense_view)
{
    const bool receives = (flags & PyBUF_WRITABLE) == PyBUF_WRITABLE;
    PyObject *kind, *error, *traceback;
    struct converted converted = {.is_dense = is_dense_view};
    int code = -1;
    PyErr_Fetch(&kind, &error, &traceback);
    if ((PyObject_CheckBuffer(object) && read_with_strides(object, view, flags)) ||
        read_converted(object, view, flags, &converted))
        code = accept(view, receives, converted.stage, converted.is_dense);
    if (PyErr_Occurred())
        keep_error(current);
    Py_XDECREF(converted.stage);
    if (code == 0) {
        Py_XDECREF(kind);
        Py_XDECREF(error);
        Py_XDECREF(traceback);
    } else {
        PyErr_Restore(kind, error, traceback);
    }
    return code;
}

/* Replace the view that mpi4py got of an object; return -1 with an exception, or `code`. */
static int get_within_method(PyObject *object, Py_buffer *view, int flags, int code)
{
    if (current == NULL || (flags & PyBUF_ANY_CONTIGUOUS) != PyBUF_ANY_CONTIGUOUS)
        return code;
    const bool lacking = code == 0 && UNLIKELY(lacks_type(view, flags));
    if (code == 0 && LIKELY(is_aligned(view)) && !lacking) {
        if (checks_bounds)
            note_extent(view);
        return 0;
    }
    const bool is_dense = code == 0;
    if (is_dense) {
        PyBuffer_Release(view);
        PyErr_SetString(PyExc_BufferError, "elements that MPI has no type for, or off their boundaries");
    }
    return read_strided(object, view, flags, is_dense && !lacking);
}

int get_buffer(PyObject *object, Py_buffer *view, int flags)
{
    const int code = next_get_buffer(object, view, flags);
    if (LIKELY(code == 0 && is_aligned(view) && !checks_bounds))
        return 0;
    return get_within_method(object, view, flags, code);
}
