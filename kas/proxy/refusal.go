package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// refusal is what kas answers in the place of a cluster.
type refusal struct {
	code int
	// message for people: what is wrong and what to do. It holds no secret.
	message string
	// retryAfter is when another try may help; zero: nobody knows.
	retryAfter time.Duration
	// denied: the client may not come in.
	denied bool
}

// Error implements error.
func (r *refusal) Error() string { return r.message }

func refuse(code int, format string, args ...any) error {
	return &refusal{code: code, message: fmt.Sprintf(format, args...), denied: code == http.StatusUnauthorized}
}

func forbid(format string, args ...any) error {
	return &refusal{code: http.StatusForbidden, message: fmt.Sprintf(format, args...), denied: true}
}

func refuseFor(retryAfter time.Duration, code int, format string, args ...any) error {
	return &refusal{code: code, message: fmt.Sprintf(format, args...), retryAfter: retryAfter}
}

// unauthorizedHeader tells RoR's pages that it was kas who refused, and not the cluster.
const unauthorizedHeader = "Gitlab-Unauthorized"

// reasons by which Kubernetes' clients know what has happened.
var reasons = map[int]metav1.StatusReason{
	http.StatusBadRequest:          metav1.StatusReasonBadRequest,
	http.StatusUnauthorized:        metav1.StatusReasonUnauthorized,
	http.StatusForbidden:           metav1.StatusReasonForbidden,
	http.StatusNotFound:            metav1.StatusReasonNotFound,
	http.StatusTooManyRequests:     metav1.StatusReasonTooManyRequests,
	http.StatusInternalServerError: metav1.StatusReasonInternalError,
	http.StatusBadGateway:          metav1.StatusReasonServiceUnavailable,
	http.StatusServiceUnavailable:  metav1.StatusReasonServiceUnavailable,
	http.StatusGatewayTimeout:      metav1.StatusReasonTimeout,
}

// write answers a request, whose head has not been answered, with what is wrong with it, and
// returns the code.
func write(w http.ResponseWriter, err error) int {
	var r *refusal
	if !errors.As(err, &r) {
		r = &refusal{code: http.StatusInternalServerError, message: err.Error()}
	}
	body, err := json.Marshal(&metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Message: "kas: " + r.message, Reason: reasons[r.code], Code: int32(r.code),
	})
	if err != nil {
		body = nil // it is made of strings and numbers
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if r.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(r.retryAfter.Seconds()))))
	}
	if r.denied {
		h.Set(unauthorizedHeader, "true")
	}
	w.WriteHeader(r.code)
	_, _ = w.Write(append(body, '\n')) // who has left needs no answer
	return r.code
}
